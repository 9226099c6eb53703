package coordinator

import (
	"bytes"
	"context"
	"encoding"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/keyname"
	"github.com/onceward/coordinator/scripts"
)

// Token is a fencing token: greater than zero, below 2^53, so that it fits BIGINT, JSON and a Lua number.
// Of two grants on one fence domain the later has the greater token (P2).
type Token int64

const maxToken = 1 << 53

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

func (g Grant) validate() error {
	if g.Token < 1 || g.Token >= maxToken || !isOwner(g.Owner) {
		return fmt.Errorf("%w: the grant is not one: use Lease.Grant, GrantFrom or ParseGrant", ErrInvalid)
	}
	return nil
}

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
	err := f.check(g)
	if err == nil {
		err = fencedCommand(args)
	}
	if err == nil {
		err = f.inside(keyOf(args))
	}
	if err == nil {
		keys := []string{f.names.Guard(), keyOf(args)}
		err = f.send(ctx, cmd, g, scripts.FenceDo, keys, append([]any{head(g), args[0]}, args[2:]...))
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
		err = f.send(ctx, cmd, g, scripts.FenceEval(script), append([]string{f.names.Guard()}, keys...), append([]any{head(g)}, args...))
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
	args, err := encodable(args)
	if err != nil {
		return err
	}
	k := &call{script: s, key: f.key, owner: g.Owner, keys: keys, args: args, fenced: true, once: true}
	f.c.run(ctx, k)
	switch {
	case k.err != nil:
		return k.err
	case k.reply.code == codeFailed:
		text, _ := k.reply.value.(string)
		return commandError(text)
	case k.reply.code == codeStale:
		return &StaleTokenError{Key: f.key, Token: g.Token, Current: k.reply.rec.token}
	case k.reply.code != codeOK:
		return unexpected(k)
	case k.reply.value == nil:
		return redis.Nil
	}
	cmd.SetVal(k.reply.value)
	return nil
}

// commandError is what the user's own command or script answered.
type commandError string

func (e commandError) Error() string { return string(e) }

// RedisError makes it a redis.Error, as it would be without the fence.
func (commandError) RedisError() {}

// encodable takes a copy of what the caller may change after the call has returned, and refuses what go-redis cannot send.
func encodable(args []any) ([]any, error) {
	out := make([]any, len(args))
	for i, arg := range args {
		switch a := arg.(type) {
		case nil, string, bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64, time.Time, time.Duration:
			out[i] = a
		case []byte:
			out[i] = bytes.Clone(a)
		case encoding.BinaryMarshaler:
			data, err := a.MarshalBinary()
			if err != nil {
				return nil, fmt.Errorf("%w: argument %d does not encode: %w", ErrInvalid, i, err)
			}
			out[i] = data
		default:
			return nil, fmt.Errorf("%w: argument %d is a %T; make it a string, a number or bytes", ErrInvalid, i, arg)
		}
	}
	return out, nil
}

// fenced are the commands that Fence.Do takes: those with exactly one key, which comes first, that neither block nor
// run other commands. The number is how many arguments they may have behind the key, -1 for any.
var fenced = map[string]int{
	"append": -1, "bitcount": -1, "bitfield": -1, "bitpos": -1, "decr": 0, "decrby": -1, "del": 0, "exists": 0,
	"expire": -1, "expireat": -1, "expiretime": 0, "geoadd": -1, "geodist": -1, "geohash": -1, "geopos": -1,
	"geosearch": -1, "get": 0, "getbit": -1, "getdel": 0, "getex": -1, "getrange": -1, "getset": -1, "hdel": -1,
	"hexists": -1, "hget": -1, "hgetall": 0, "hincrby": -1, "hincrbyfloat": -1, "hkeys": 0, "hlen": 0, "hmget": -1,
	"hmset": -1, "hscan": -1, "hset": -1, "hsetnx": -1, "hstrlen": -1, "hvals": 0, "incr": 0, "incrby": -1,
	"incrbyfloat": -1, "lindex": -1, "linsert": -1, "llen": 0, "lpop": -1, "lpos": -1, "lpush": -1, "lpushx": -1,
	"lrange": -1, "lrem": -1, "lset": -1, "ltrim": -1, "persist": 0, "pexpire": -1, "pexpireat": -1,
	"pexpiretime": 0, "pfadd": -1, "pfcount": 0, "psetex": -1, "pttl": 0, "rpop": -1, "rpush": -1, "rpushx": -1,
	"sadd": -1, "scard": 0, "set": -1, "setbit": -1, "setex": -1, "setnx": -1, "setrange": -1, "sismember": -1,
	"smembers": 0, "smismember": -1, "spop": -1, "srandmember": -1, "srem": -1, "strlen": 0, "touch": 0, "ttl": 0,
	"type": 0, "unlink": 0, "xack": -1, "xadd": -1, "xdel": -1, "xlen": 0, "xrange": -1, "xrevrange": -1,
	"xtrim": -1, "zadd": -1, "zcard": 0, "zcount": -1, "zincrby": -1, "zlexcount": -1, "zmscore": -1,
	"zpopmax": -1, "zpopmin": -1, "zrange": -1, "zrangebylex": -1, "zrangebyscore": -1, "zrank": -1, "zrem": -1,
	"zremrangebylex": -1, "zremrangebyrank": -1, "zremrangebyscore": -1, "zrevrange": -1, "zrevrank": -1, "zscore": -1,
}

// keyOf is the key of a fenced command, as fencedCommand has let it pass.
func keyOf(args []any) string {
	if b, ok := args[1].([]byte); ok {
		return string(b)
	}
	return args[1].(string)
}

// mostFencedArgs is what Lua can unpack onto its stack, with room to spare.
const mostFencedArgs = 7000

func fencedCommand(args []any) error {
	if len(args) < 2 {
		return fmt.Errorf("%w: Fence.Do takes a command and its key", ErrInvalid)
	}
	name, ok := args[0].(string)
	most, known := fenced[strings.ToLower(name)]
	if !ok || !known {
		return fmt.Errorf("%w: Fence.Do does not take the command %.40q: it takes data commands with one key, which comes first; use Fence.Eval for others", ErrInvalid, fmt.Sprint(args[0]))
	}
	switch args[1].(type) {
	case string, []byte:
	default:
		return fmt.Errorf("%w: the key of a fenced command is a string, not %T", ErrInvalid, args[1])
	}
	if behind := len(args) - 2; most >= 0 && behind > most || behind > mostFencedArgs {
		return fmt.Errorf("%w: Fence.Do takes one key, and at most %d arguments; split the call", ErrInvalid, mostFencedArgs)
	}
	return nil
}
