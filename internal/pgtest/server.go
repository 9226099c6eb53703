package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	host      = "127.0.0.1"
	superuser = "tester"

	pollEvery = 20 * time.Millisecond
	patience  = 30 * time.Second
)

// Server is one PostgreSQL cluster, over several runs of its postmaster: port, data and settings stay.
type Server struct {
	bin  string
	dir  string
	port int
	who  *account

	mu   sync.Mutex
	proc *process
}

// Start makes a cluster and starts it. The settings are those of postgresql.conf, as name=value; what is not
// set here is as PostgreSQL has it, but for fsync, which is off: what the tests kill is processes, not machines.
func Start(ctx context.Context, settings ...string) (_ *Server, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	bin, err := Find()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pgtest-")
	if err != nil {
		return nil, fmt.Errorf("pgtest: directory for a server: %w", err)
	}
	s := &Server{bin: bin, dir: dir}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	if s.who, err = unprivileged(); err != nil {
		return nil, err
	}
	if err := s.who.own(dir); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", s.data(), "-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	cmd.Dir, cmd.SysProcAttr = dir, s.who.attributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("pgtest: initdb: %w\n%s", err, out)
	}
	for tries := 10; ; tries-- {
		if s.port, err = freePort(); err != nil {
			return nil, err
		}
		if err = s.configure(settings); err != nil {
			return nil, err
		}
		if err = s.Restart(ctx); !errors.Is(err, errPortTaken) || tries == 1 {
			return s, err
		}
	}
}

// Run is [Start] for the time of a test.
func Run(tb testing.TB, settings ...string) *Server {
	tb.Helper()
	Need(tb)
	s, err := Start(context.Background(), settings...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Stop)
	return s
}

var errPortTaken = errors.New("port taken")

func freePort() (int, error) {
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		return 0, fmt.Errorf("pgtest: no free port: %w", err)
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func (s *Server) data() string    { return filepath.Join(s.dir, "data") }
func (s *Server) logPath() string { return filepath.Join(s.dir, "log") }

func (s *Server) configure(settings []string) error {
	lines := append([]string{
		"listen_addresses=" + quote(host), "port=" + strconv.Itoa(s.port), "unix_socket_directories=" + quote(s.dir),
		"fsync=off", "max_connections=200", "shared_buffers=" + quote("32MB"), "timezone=" + quote("UTC"), "lc_messages=" + quote("C"),
	}, settings...)
	path := filepath.Join(s.data(), "postgresql.conf")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("pgtest: settings: %w", err)
	}
	return s.who.own(path)
}

func quote(value string) string { return "'" + strings.ReplaceAll(value, "'", "''") + "'" }

// Addr returns the server's address as host:port.
func (s *Server) Addr() string { return net.JoinHostPort(host, strconv.Itoa(s.port)) }

// URL returns the connection string of the database postgres, for its superuser.
func (s *Server) URL() string { return URL(s.Addr()) }

// URL returns the connection string of the database postgres of a server, or a proxy before it, at addr.
func URL(addr string) string {
	return "postgres://" + superuser + "@" + addr + "/postgres?sslmode=disable"
}

// Restart starts the server again, as after a crash where it still runs or was killed, and returns when it
// takes connections.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := bounded(ctx)
	defer cancel()
	s.kill()
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("pgtest: log: %w", err)
	}
	defer log.Close() // the child has its own copy
	from, _ := log.Seek(0, 2)
	// A backend of the last run may need a moment to notice that its postmaster is gone.
	for {
		cmd := exec.Command(filepath.Join(s.bin, "postgres"), "-D", s.data())
		cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = s.dir, log, log, s.who.attributes()
		if s.proc, err = spawn(cmd); err != nil {
			return err
		}
		err = s.ready(ctx, from)
		if !errors.Is(err, errOccupied) {
			return err
		}
		if from, err = s.pause(ctx, log); err != nil {
			return err
		}
	}
}

var errOccupied = errors.New("the last run's processes are still there")

func (s *Server) pause(ctx context.Context, log *os.File) (int64, error) {
	select {
	case <-ctx.Done():
		return 0, fmt.Errorf("pgtest: %w: %w", errOccupied, context.Cause(ctx))
	case <-time.After(pollEvery):
		return log.Seek(0, 2)
	}
}

// ready waits until this run says, in its log from here on, that it takes connections.
func (s *Server) ready(ctx context.Context, from int64) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(s.logPath())
		if err != nil {
			return fmt.Errorf("pgtest: log: %w", err)
		}
		news := text[min(from, int64(len(text))):]
		if bytes.Contains(news, []byte("ready to accept connections")) {
			return nil
		}
		select {
		case <-s.proc.exited:
			if text, err = os.ReadFile(s.logPath()); err != nil {
				return fmt.Errorf("pgtest: log: %w", err)
			}
			news = text[min(from, int64(len(text))):]
			switch {
			case bytes.Contains(news, []byte("Address already in use")):
				return errPortTaken
			case bytes.Contains(news, []byte("pre-existing shared memory")), bytes.Contains(news, []byte("lock file")):
				return errOccupied
			}
			return fmt.Errorf("pgtest: postgres ended (%v):\n%s", s.proc.err, news)
		case <-ctx.Done():
			return fmt.Errorf("pgtest: postgres is not ready: %w\n%s", context.Cause(ctx), news)
		case <-tick.C:
		}
	}
}

// Kill ends the postmaster and all its processes at once, as a crash does.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kill()
}

func (s *Server) kill() {
	if s.proc == nil {
		return
	}
	s.proc.kill()
	s.proc = nil
}

// Stop ends the server and removes its files.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		_ = s.proc.os.Signal(syscall.SIGQUIT) // at once, and with its children
		select {
		case <-s.proc.exited:
			s.proc = nil
		case <-time.After(patience):
			s.kill()
		}
	}
	_ = os.RemoveAll(s.dir)
}

// Log returns what the server has written to its log.
func (s *Server) Log() string {
	text, _ := os.ReadFile(s.logPath())
	return string(text)
}

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, patience)
}
