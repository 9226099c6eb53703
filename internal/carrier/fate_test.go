package carrier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
)

// told is what a server answered.
type told string

func (e told) Error() string { return string(e) }
func (told) RedisError()     {}

// P5, P7. What is taken for not run is sent again even where that is not safe; what is taken for refused is told as not done.
func TestFateOf(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for want, errs := range map[fate][]error{
		fateAnswered: {nil, redis.Nil, fmt.Errorf("behind a hook: %w", redis.Nil)},
		fateNotRun: {
			refused, fmt.Errorf("behind a hook: %w", refused), errors.Join(context.DeadlineExceeded, refused),
			redis.ErrPoolTimeout, redis.ErrPoolExhausted,
			notSent{io.EOF}, notSent{redis.ErrClosed}, notSent{told("OOM")}, fmt.Errorf("%w", notSent{context.Canceled}),
			told("TRYAGAIN Multiple keys request during rehashing of slot"), told("CLUSTERDOWN The cluster is down"),
			told("LOADING Redis is loading the dataset in memory"), told("READONLY You can't write against a read only replica."),
			told("MASTERDOWN Link with MASTER is down"), told("NOREPLICAS Not enough good replicas to write."),
			told("MOVED 1 127.0.0.1:7000"), told("ASK 1 127.0.0.1:7000"), told("NOSCRIPT No matching script."),
			told("ERR max number of clients reached"), told("ERR max number of clients + cluster connections reached"),
			fmt.Errorf("behind a hook: %w", told("LOADING")),
		},
		fateUnknown: {
			io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, os.ErrDeadlineExceeded, context.Canceled, context.DeadlineExceeded,
			&net.OpError{Op: "read", Err: syscall.ECONNRESET}, &net.OpError{Op: "write", Err: syscall.EPIPE},
			errors.New("redis: can't parse \"?\""), errors.New("LOADING, but not from a server"),
		},
		fateRefused: {
			Refusal("too old"), fmt.Errorf("behind a hook: %w", Refusal("too old")), redis.ErrClosed,
			told("OOM command not allowed when used memory > 'maxmemory'."), told("MISCONF Errors writing to the AOF file"),
			told("BUSY Redis is busy running a script."), told("WRONGTYPE Operation against a key"), told("NOAUTH Authentication required."),
			told("ERR unknown command 'evalsha'"), told("ERR this only mentions LOADING"), told(""),
			fmt.Errorf("failed to authenticate: %w", told("WRONGPASS invalid username-password pair")),
		},
	} {
		for _, err := range errs {
			if got := fateOf(err); got != want {
				t.Errorf("%v: %d, want %d", err, got, want)
			}
		}
	}
}

func TestExplain(t *testing.T) {
	for text, word := range map[string]string{
		"OOM command not allowed": "maxmemory", "NOPERM this user has no permissions": "docs/redis.md",
		"ERR The user executing the script can't run this command": "docs/redis.md", "ACL failure in script": "docs/redis.md",
		"NOAUTH Authentication required.": "set it", "WRONGPASS invalid": "mend it", "MISCONF Errors writing": "log",
		"BUSY Redis is busy": "SCRIPT KILL", "ERR unknown command 'evalsha'": "7.0 or Valkey 7.2",
	} {
		cause := fmt.Errorf("on a node: %w", told(text))
		if err := explain(cause); !errors.Is(err, cause) || !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not wrap %q and speak of %q", err, cause, word)
		}
	}
	for _, err := range []error{told("ERR syntax error"), redis.ErrClosed, Refusal("too old")} {
		if got := explain(err); got != err {
			t.Errorf("%v becomes %v", err, got)
		}
	}
}
