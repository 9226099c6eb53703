package carrier

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// fate is what became of one sending.
type fate int

const (
	fateAnswered fate = iota
	fateNotRun        // known not to have run: try again
	fateUnknown       // may have run: ask again, it is safe to
	fateRefused       // the server or the client will not do it: tell the caller
)

// Errors of servers that did not run the command and may soon.
var notRunPrefixes = []string{
	"TRYAGAIN", "CLUSTERDOWN", "LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "MOVED", "ASK", "NOSCRIPT",
	"max number of clients", // HasErrorPrefix has taken "ERR " off
}

func fateOf(err error) fate {
	if err == nil {
		return fateAnswered // before what the others need is allocated
	}
	var told redis.Error
	var op *net.OpError
	var unsent notSent
	var refused Refusal
	switch {
	case errors.Is(err, redis.Nil):
		return fateAnswered
	case errors.As(err, &unsent):
		return fateNotRun
	case errors.As(err, &refused) || errors.Is(err, redis.ErrClosed):
		return fateRefused
	case errors.As(err, &op) && op.Op == "dial", errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted):
		return fateNotRun
	case errors.As(err, &told):
		for _, prefix := range notRunPrefixes {
			if redis.HasErrorPrefix(err, prefix) {
				return fateNotRun
			}
		}
		return fateRefused
	}
	return fateUnknown
}

// What to do about errors that a server keeps giving until somebody mends it.
var remedies = []struct{ prefix, remedy string }{
	{"OOM", "its memory is full: raise maxmemory, and keep maxmemory-policy noeviction"},
	{"NOPERM", "its ACL refuses us: docs/redis.md has the line to paste"},
	{"ERR The user executing the script", "its ACL refuses what our scripts do: docs/redis.md has the line to paste"},
	{"ACL failure in script", "its ACL refuses what our scripts do: docs/redis.md has the line to paste"},
	{"NOAUTH", "it wants a password: set it in the client's options"},
	{"WRONGPASS", "it refuses the password: mend it in the client's options"},
	{"MISCONF", "it cannot write its disk: see its log"},
	{"BUSY", "another script keeps it busy: see SCRIPT KILL"},
}

func remedy(err error) string {
	var told redis.Error
	if errors.As(err, &told) {
		for _, r := range remedies {
			if strings.HasPrefix(told.Error(), r.prefix) {
				return r.remedy
			}
		}
	}
	return ""
}

// explain says what to do about an error that will not go away by itself.
func explain(err error) error {
	if what := remedy(err); what != "" {
		return fmt.Errorf("%s: %w", what, err)
	}
	if strings.Contains(err.Error(), "unknown command") {
		return fmt.Errorf("the server does not know a command that we need; Redis 7.0 or Valkey 7.2 or later is needed: %w", err)
	}
	return err
}
