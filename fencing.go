package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/scripts"
)

// Token is a fencing token: greater than zero, below 2^53, so that it fits BIGINT, JSON and a Lua number.
// Of two grants on one fence domain the later has the greater token (P2).
type Token int64

// Grant is the proof of a grant, a credential: who holds it can write behind the fence and finish the
// operation while it is current. It may travel to another process; see [Coordinator.Resume].
type Grant struct {
	Token Token
	Owner string
}

// String returns "<token>.<owner>", the form that headers and metadata carry. It shows the credential; slog does not.
func (g Grant) String() string { return strconv.FormatInt(int64(g.Token), 10) + "." + g.Owner }

// LogValue hides the owner.
func (g Grant) LogValue() slog.Value {
	return slog.StringValue(strconv.FormatInt(int64(g.Token), 10) + ".***")
}

// ParseGrant reads what String wrote; anything else is ErrInvalid.
func ParseGrant(s string) (Grant, error) {
	number, owner, _ := strings.Cut(s, ".")
	token, err := strconv.ParseInt(number, 10, 64)
	g := Grant{Token: Token(token), Owner: owner}
	if err != nil || g.String() != s || g.validate() != nil {
		return Grant{}, fmt.Errorf("%w: a grant reads <token>.<owner>: a whole number from 1 to 2^53-1 and 32 lower-case hex digits", ErrInvalid)
	}
	return g, nil
}

func (g Grant) head() string { return protocol.Head(g.Owner, int64(g.Token)) }

func (g Grant) validate() error {
	if g.Token < 1 || g.Token >= protocol.MaxToken || !protocol.IsOwner(g.Owner) {
		return fmt.Errorf("%w: the grant is not one: use Lease.Grant, GrantFrom or ParseGrant", ErrInvalid)
	}
	return nil
}

type grantKey struct{}

// GrantFrom returns the grant of a lease's context, or of one made by [ContextWithGrant].
func GrantFrom(ctx context.Context) (Grant, bool) {
	g, ok := ctx.Value(grantKey{}).(Grant)
	return g, ok
}

// ContextWithGrant returns a context that carries g, where a grant came from another process.
func ContextWithGrant(ctx context.Context, g Grant) context.Context {
	return context.WithValue(ctx, grantKey{}, g)
}

// Fence lets only the current grant of its domain write (P3): each write and its check are one script. The
// domain is the resource, if the key has one, or else the key.
type Fence struct {
	c     *Coordinator
	key   Key
	names keyname.Names
	err   error
}

// Fence returns the fence of key's domain; Key{Resource: r} is enough for a resource's. It touches no network, and
// what is wrong with the key surfaces in the calls.
func (c *Coordinator) Fence(key Key) *Fence {
	f := &Fence{c: c, key: key}
	if key.Resource == "" || key.ID != "" {
		f.err = key.Validate()
	}
	if f.err == nil {
		f.names = c.names(key)
	}
	return f
}

// Tag returns "{…}": put it in the name of a Redis key, "balance:"+f.Tag(), to place that key behind this
// fence. Empty for a key that is not valid.
func (f *Fence) Tag() string {
	if f.err != nil {
		return ""
	}
	return "{" + f.names.Tag + "}"
}

// Do runs one data command on one key behind the fence: args[0] is the command, args[1] its key, which has
// [Fence.Tag] in its name. ErrStaleToken: the grant is not current and nothing was written. It is sent once: ErrUnknown
// means that it may have run. A nil reply is redis.Nil, and the command's own error is passed on.
func (f *Fence) Do(ctx context.Context, g Grant, args ...any) *redis.Cmd {
	cmd := redis.NewCmd(ctx, args...)
	ctx, end := f.c.begin(ctx, "fence_do", f.key)
	var key string
	err := f.check(g)
	if err == nil {
		if key, err = protocol.CommandKey(args); err != nil {
			err = fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	if err == nil {
		err = f.inside(key)
	}
	if err == nil {
		err = f.send(ctx, cmd, g, scripts.FenceDo, []string{f.names.Guard(), key}, append([]any{args[0]}, args[2:]...))
	}
	finishCmd(cmd, err, end)
	return cmd
}

// Eval runs a script behind the fence; its KEYS and ARGV hold the caller's only, and every key has [Fence.Tag] in its
// name. Put what varies into args: each text is one script in the server's cache. Otherwise it is as Do.
func (f *Fence) Eval(ctx context.Context, g Grant, script string, keys []string, args ...any) *redis.Cmd {
	cmd := redis.NewCmd(ctx, append([]any{"eval", script, len(keys)}, args...)...)
	ctx, end := f.c.begin(ctx, "fence_eval", f.key)
	err := f.check(g)
	if err == nil && strings.HasPrefix(strings.TrimSpace(script), "#!") {
		err = fmt.Errorf("%w: Fence.Eval takes a script without a #! line", ErrInvalid)
	}
	for _, name := range keys {
		if err == nil {
			err = f.inside(name)
		}
	}
	if err == nil {
		err = f.send(ctx, cmd, g, scripts.FenceEval(script), append([]string{f.names.Guard()}, keys...), args)
	}
	finishCmd(cmd, err, end)
	return cmd
}

func finishCmd(cmd *redis.Cmd, err error, end func(string, error)) {
	cmd.SetErr(err)
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	end(outcomeOf(err), err)
}

func (f *Fence) check(g Grant) error {
	if f.c.closed() {
		return ErrClosed
	}
	if f.err != nil {
		return f.err
	}
	return g.validate()
}

// inside refuses a key of another slot or of our own, on every kind of server alike.
func (f *Fence) inside(redisKey string) error {
	if f.c.namer.Own(redisKey) {
		return fmt.Errorf("%w: %q begins with this module's prefix %q; choose another name", ErrInvalid, redisKey, f.c.prefix+":")
	}
	if keyname.Slot(redisKey) != keyname.Slot(f.names.Guard()) {
		return fmt.Errorf("%w: %q is in another hash slot than its fence; put Fence.Tag() in the key's name", ErrInvalid, redisKey)
	}
	return nil
}

func (f *Fence) send(ctx context.Context, cmd *redis.Cmd, g Grant, s *scripts.Script, keys []string, args []any) error {
	args, err := protocol.Encodable(args)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	k := newCall(f.key, g.Owner, protocol.Fenced(s, g.head(), keys, args))
	f.c.run(ctx, k)
	switch {
	case k.Err != nil:
		return k.Err
	case k.Reply.Code == protocol.Failed:
		text, _ := k.Reply.Value.(string)
		return commandError(text)
	case k.Reply.Code == protocol.Stale:
		return k.stale(g.Token)
	case k.Reply.Code != protocol.OK:
		return k.unexpected()
	case k.Reply.Value == nil:
		return redis.Nil
	}
	cmd.SetVal(k.Reply.Value)
	return nil
}

// commandError is what the user's own command or script answered.
type commandError string

func (e commandError) Error() string { return string(e) }

// RedisError makes it a redis.Error, as it would be without the fence.
func (commandError) RedisError() {}
