package coordinator

import (
	"context"
	"crypto/sha1"
	_ "embed" // the scripts
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// The scripts, one variable each, named after the verb.
var (
	//go:embed scripts/common.lua
	commonText string

	//go:embed scripts/claim.lua
	claimText string
	//go:embed scripts/renew.lua
	renewText string
	//go:embed scripts/checkpoint.lua
	checkpointText string
	//go:embed scripts/complete.lua
	completeText string
	//go:embed scripts/release.lua
	releaseText string
	//go:embed scripts/giveback.lua
	givebackText string
	//go:embed scripts/expire.lua
	expireText string
	//go:embed scripts/resolve.lua
	resolveText string
	//go:embed scripts/mark.lua
	markText string
	//go:embed scripts/confirm.lua
	confirmText string
	//go:embed scripts/inspect.lua
	inspectText string
	//go:embed scripts/fence_do.lua
	fenceDoText string
	//go:embed scripts/fence_eval.lua
	fenceEvalText string
)

var (
	claimScript      = newScript("claim", claimText)
	renewScript      = newScript("renew", renewText)
	checkpointScript = newScript("checkpoint", checkpointText)
	completeScript   = newScript("complete", completeText)
	releaseScript    = newScript("release", releaseText)
	givebackScript   = newScript("giveback", givebackText)
	expireScript     = newScript("expire", expireText)
	resolveScript    = newScript("resolve", resolveText)
	markScript       = newScript("mark", markText)
	confirmScript    = newScript("confirm", confirmText)
	inspectScript    = newScript("inspect", inspectText)
	fenceDoScript    = newScript("fence_do", fenceDoText)
)

// fixedScripts are those that Load puts on every master; Fence.Eval's depend on the user's text.
func fixedScripts() []*script {
	return []*script{
		claimScript, renewScript, checkpointScript, completeScript, releaseScript, givebackScript,
		expireScript, resolveScript, markScript, confirmScript, inspectScript, fenceDoScript,
	}
}

// script is one verb's text and the name under which servers cache it.
type script struct {
	verb string
	text string
	sha  string
}

func newScript(verb, text string) *script {
	text = compose(text)
	sum := sha1.Sum([]byte(text))
	return &script{verb: verb, text: text, sha: hex.EncodeToString(sum[:])}
}

// commonPlace is where a verb that has a short way for its most frequent case wants the shared part: behind it,
// because making the shared functions costs more than that case. The other verbs have it in front.
const commonPlace = "--[[COMMON]]\n"

func compose(text string) string {
	if before, after, ok := strings.Cut(text, commonPlace); ok {
		return before + commonText + after
	}
	return commonText + text
}

// userText is the place in fence_eval.lua where the user's own script goes.
const userText = "--[[TEXT]]"

// evalScript composes the fence's check with a user's script; nested EVAL does not exist.
func evalScript(text string) *script {
	return newScript("fence_eval", strings.Replace(fenceEvalText, userText, "\n"+text+"\n", 1))
}

// Load puts the scripts on every master, and checks that each server is one that they run on. Calls work
// without it: a script that a server does not know is sent along with the call. Load is best effort, node by node;
// its error joins the nodes' errors.
func (c *Coordinator) Load(ctx context.Context) (err error) {
	ctx, end := c.begin(ctx, "load", Key{})
	defer func() { end(outcomeOf(err), err) }()
	if c.closed() {
		return ErrClosed
	}
	ctx, cancel := c.bound(ctx)
	defer cancel()
	finished := make(chan error, 1)
	go func() { finished <- c.eachMaster(ctx, loadNode) }()
	select {
	case err := <-finished:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
}

// eachMaster calls fn for every master that serves keys, at the same time, and joins the errors. For
// anything but a cluster that is the one server.
func (c *Coordinator) eachMaster(ctx context.Context, fn func(context.Context, redis.UniversalClient) error) error {
	if c.cluster == nil {
		return fn(ctx, c.rdb)
	}
	var mu sync.Mutex
	var all []error
	err := c.cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		if err := fn(ctx, node); err != nil {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, fmt.Errorf("%s: %w", node.Options().Addr, err))
		}
		return nil // or the other nodes would be left out
	})
	return errors.Join(append(all, err)...)
}

func loadNode(ctx context.Context, node redis.UniversalClient) error {
	if err := checkVersion(ctx, node); err != nil {
		return err
	}
	pipe := node.Pipeline()
	for _, s := range fixedScripts() {
		pipe.ScriptLoad(ctx, s.text)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return explain(err)
	}
	return nil
}

const oldestServer = 7 // Redis 7.0; Valkey starts at 7.2

// checkVersion refuses a server that is too old. One that does not say its version, or not to us, passes:
// what it cannot do, it will say itself.
func checkVersion(ctx context.Context, node redis.UniversalClient) error {
	info, err := node.Info(ctx, "server").Result()
	if err != nil {
		var refused redis.Error
		if errors.As(err, &refused) {
			return nil
		}
		return explain(err)
	}
	version := infoField(info, "redis_version")
	major, _, _ := strings.Cut(version, ".")
	if infoField(info, "arch_bits") == "32" {
		return fmt.Errorf("%w: the server is a 32-bit one, whose Lua cuts tokens off; a 64-bit Redis 7.0 or Valkey 7.2 or later is needed", ErrUnavailable)
	}
	if n, err := strconv.Atoi(major); err == nil && n < oldestServer {
		return fmt.Errorf("%w: the server is Redis %s; Redis 7.0 or Valkey 7.2 or later is needed", ErrUnavailable, version)
	}
	return nil
}

func infoField(info, name string) string {
	_, rest, _ := strings.Cut(info, name+":")
	value, _, _ := strings.Cut(rest, "\r\n")
	return value
}
