// Package scripts holds the Lua scripts that everything rests on, a file for each verb, and what is needed to
// send them. Programs in other languages can use the files: each is common.lua and the verb put together by [New].
package scripts

import (
	"crypto/sha1"
	_ "embed" // the scripts
	"encoding/hex"
	"strings"
)

// One variable each, named after the verb.
var (
	//go:embed common.lua
	commonText string

	//go:embed claim.lua
	claimText string
	//go:embed renew.lua
	renewText string
	//go:embed checkpoint.lua
	checkpointText string
	//go:embed complete.lua
	completeText string
	//go:embed release.lua
	releaseText string
	//go:embed giveback.lua
	givebackText string
	//go:embed expire.lua
	expireText string
	//go:embed resolve.lua
	resolveText string
	//go:embed mark.lua
	markText string
	//go:embed confirm.lua
	confirmText string
	//go:embed inspect.lua
	inspectText string
	//go:embed fence_do.lua
	fenceDoText string
	//go:embed fence_eval.lua
	fenceEvalText string
)

// The verbs; each file's header is its contract.
var (
	Claim      = New("claim", claimText)
	Renew      = New("renew", renewText)
	Checkpoint = New("checkpoint", checkpointText)
	Complete   = New("complete", completeText)
	Release    = New("release", releaseText)
	GiveBack   = New("giveback", givebackText)
	Expire     = New("expire", expireText)
	Resolve    = New("resolve", resolveText)
	Mark       = New("mark", markText)
	Confirm    = New("confirm", confirmText)
	Inspect    = New("inspect", inspectText)
	FenceDo    = New("fence_do", fenceDoText)
)

// All are the fixed scripts; those of [FenceEval] depend on the user's text.
func All() []*Script {
	return []*Script{
		Claim, Renew, Checkpoint, Complete, Release, GiveBack,
		Expire, Resolve, Mark, Confirm, Inspect, FenceDo,
	}
}

// Script is one verb's text and the hash under which servers cache it.
type Script struct {
	Verb string
	Text string
	SHA  string
}

// New composes a verb's text with the shared part.
func New(verb, text string) *Script { return whole(verb, compose(text)) }

func whole(verb, text string) *Script {
	sum := sha1.Sum([]byte(text))
	return &Script{Verb: verb, Text: text, SHA: hex.EncodeToString(sum[:])}
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

// FenceEval composes the fence's check with a user's script; nested EVAL does not exist.
func FenceEval(text string) *Script {
	return whole("fence_eval", strings.Replace(compose(fenceEvalText), userText, "\n"+text+"\n", 1))
}
