// Package highest remembers the highest grant of each resource, for services that are written to: who comes with a lower one
// comes too late.
package highest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/keyname"
)

// The defaults of [New].
const (
	defaultPrefix   = "coordgrant"
	defaultRemember = 7 * 24 * time.Hour
)

// Marks are the highest grants, in a Redis. They are safe for concurrent use.
type Marks struct {
	redis    redis.UniversalClient
	remember time.Duration
	namer    keyname.Namer
	script   *redis.Script
}

// New makes marks whose names begin with prefix, "coordgrant" where it is empty, and that are known for remember after their
// last grant, a week where it is 0. Its errors speak of the adapters' GrantGuard.
func New(rdb redis.UniversalClient, prefix string, remember time.Duration) (*Marks, error) {
	if rdb == nil {
		return nil, errors.New("GrantGuard needs Redis and Resource")
	}
	if remember < 0 || remember > 0 && remember < time.Minute {
		return nil, fmt.Errorf("GrantGuard.Remember is longer than any lease may live, a minute at least, not %v", remember)
	}
	if remember == 0 {
		remember = defaultRemember
	}
	if prefix == "" {
		prefix = defaultPrefix
	}
	if strings.ContainsFunc(prefix, func(c rune) bool { return c > '~' || !keyname.Plain(byte(c)) }) {
		return nil, fmt.Errorf("GrantGuard.Prefix takes letters, digits and -_. and not %q", prefix)
	}
	return &Marks{redis: rdb, remember: remember, namer: keyname.Namer{Prefix: prefix}, script: redis.NewScript(raise)}, nil
}

// ErrStale is a grant that is lower than one that was there before, or as high and another owner's.
var ErrStale = errors.New("a higher grant was there before")

// ErrAhead is a grant whose token is more than a day ahead of the clock, as no coordinator makes them: it would shut out all others
// until the clock has passed it. It is ErrStale too, for those who ask whether to refuse for good.
var ErrAhead = fmt.Errorf("%w, or would be: the token is more than a day ahead of the clock", ErrStale)

const ahead = "ahead"

// raise keeps the highest grant, as 16 digits of its token and its owner; numbers of one length compare as text.
//
// KEYS[1] the mark, ARGV[1] the grant, ARGV[2] how long to remember it, ms. It returns nothing, or the mark that stands above, or
// 'ahead' for a token that is above the clock, of which tokens are made in us, and a day.
const raise = `
local mark = redis.call('GET', KEYS[1])
if mark and #mark ~= 48 then return redis.error_reply('not a mark of grants: ' .. KEYS[1]) end
local token = string.sub(ARGV[1], 1, 16)
if mark and (string.sub(mark, 1, 16) > token or string.sub(mark, 1, 16) == token and mark ~= ARGV[1]) then return mark end
local time = redis.call('TIME')
if tonumber(token) > time[1] * 1000000 + time[2] + 86400000000 then return 'ahead' end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
`

// Admit lets a grant pass that is as high as any before, and remembers it. [ErrStale] is one that is not, [ErrAhead] one that nobody
// was granted; other errors are Redis': nothing is known then. To admit a grant again is safe.
func (m *Marks) Admit(ctx context.Context, resource string, token int64, owner string) error {
	name := m.namer.Names("", "", resource).Guard() + ":g" // no name of a coordinator's, whose prefix may be the same
	mark, err := m.script.Run(ctx, m.redis, []string{name}, fmt.Sprintf("%016d%s", token, owner), m.remember.Milliseconds()).Text()
	switch {
	case errors.Is(err, redis.Nil):
		return nil
	case err != nil:
		return err
	case mark == ahead:
		return fmt.Errorf("%w: %d", ErrAhead, token)
	}
	return fmt.Errorf("%w: token %d against %.16s", ErrStale, token, mark)
}
