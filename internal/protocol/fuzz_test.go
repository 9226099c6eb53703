package protocol

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/onceward/coordinator/scripts"
)

// records are one of each form: in progress with a checkpoint, released as a tombstone, completed, failed without a fingerprint,
// released as the tombstone of a give back.
func records() []*Record {
	const now = 1_700_000_000_000 * time.Millisecond
	owner := strings.Repeat("1", 32)
	return []*Record{
		{
			State: StateInProgress, Owner: owner, Token: 1_700_000_000_000_000, Attempt: 2, Bound: true, Fingerprint: []byte("fp"),
			End: now, Length: time.Minute, Maximum: now + time.Hour, Data: []byte("so far"), Sequence: 3, Checkpointed: true,
		},
		{State: StateReleased, Owner: owner, Token: 1_700_000_000_000_000, End: now},
		{State: StateCompleted, Owner: owner, Token: 5, Attempt: 1, Bound: true, Fingerprint: []byte("fp"), End: now, Data: []byte("result")},
		{State: StateFailed, Owner: owner, Token: 5, Mark: '3', Attempt: 1, Bound: true, End: now},
		{State: StateReleased, Owner: owner, Token: 1_700_000_000_000_000, End: now, Maximum: time.Millisecond},
	}
}

// What decodes is written back byte for byte, so nothing in a record is read in two ways.
func FuzzRecord(f *testing.F) {
	for _, r := range records() {
		whole := r.Encode()
		f.Add(whole)
		f.Add(whole[:99%len(whole)])
		f.Add(whole[:len(whole)-3])
		f.Add("2" + whole[1:])
	}
	f.Add("")
	f.Add("WRONGTYPE")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := DecodeRecord(s, true)
		if err != nil {
			if why := (*CorruptError)(nil); !errors.As(err, &why) {
				t.Errorf("%q: %v is no CorruptError", s, err)
			}
			return
		}
		if got := r.Encode(); got != s {
			t.Errorf("%q is read as %q", s, got)
		}
		header, err := DecodeRecord(s[:min(len(s), 99)], false)
		if err != nil {
			t.Errorf("%q: its header does not decode: %v", s, err)
		}
		if header.State != r.State || header.Owner != r.Owner || header.Token != r.Token || header.End != r.End || header.Attempt != r.Attempt {
			t.Errorf("%q: the header reads %+v, the record %+v", s, header, r)
		}
		if r.Token < 0 || r.Attempt < 0 || len(r.Fingerprint) > MaxFingerprint || r.End < 0 {
			t.Errorf("%q reads %+v", s, r)
		}
	})
}

// answerFrom makes what go-redis hands out, of text that the fuzzer can change: JSON, with whole numbers as int64.
func answerFrom(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = answerFrom(v[i])
		}
		return v
	case float64:
		if v == float64(int64(v)) {
			return int64(v)
		}
		return v
	case map[string]any:
		out := map[any]any{}
		for k, e := range v {
			out[k] = answerFrom(e)
		}
		return out
	}
	return v
}

// Whatever a server answers, it is a reply that makes sense or a CorruptError, and never a panic.
func FuzzReply(f *testing.F) {
	r, c := records()[0], records()[2]
	for _, answer := range []any{
		[]any{0, r.Encode(), 1_700_000_000_000}, []any{0, r.Encode(), 1_700_000_000_000, 1}, []any{4, c.Encode()}, []any{3, r.Encode()[:99], 1_700_000_000_000},
		[]any{15, r.Encode()[:99], 1_700_000_000_000, 3}, []any{9, "hello", 1}, []any{9, "hello", 2}, []any{9, "WRONGTYPE", 1}, []any{7, r.Encode()[:99]}, []any{7},
		[]any{13, 7}, []any{13}, []any{6}, []any{11, "", 1_700_000_000_000}, []any{16, "ERR x"}, []any{0, "", 1_700_000_000_000}, []any{0}, []any{-1}, []any{17}, []any{1.5}, []any{"0"}, []any{nil},
		[]any{}, nil, r.Encode(), 1_700_000_000_000, "", -5, []any{[]any{0}}, []any{0, []any{1, nil, "x"}}, map[string]any{"a": 1},
	} {
		text, err := json.Marshal(answer)
		if err != nil {
			f.Fatal(err)
		}
		for script := range len(scripts.All()) {
			f.Add(string(text), uint8(script))
		}
	}
	f.Fuzz(func(t *testing.T, text string, script uint8) {
		var raw any
		if json.Unmarshal([]byte(text), &raw) != nil {
			t.Skip()
		}
		for _, keys := range [][]string{{"record"}, {"record", "fence"}} {
			k := &Request{Script: scripts.All()[int(script)%len(scripts.All())], Keys: keys}
			k.Fenced = k.Script == scripts.FenceDo
			for _, k.Brief = range []bool{false, true} {
				r, err := DecodeReply(answerFrom(raw), k)
				if err != nil {
					if why := (*CorruptError)(nil); !errors.As(err, &why) {
						t.Errorf("%s: %v is no CorruptError", text, err)
					}
					continue
				}
				if r.Code < 0 || r.Code >= End || r.Code == Corrupt {
					t.Errorf("%s is read as the code %d", text, r.Code)
				}
				if r.Rec.State != 0 && (!IsOwner(r.Rec.Owner) || r.Rec.Token < 0) {
					t.Errorf("%s is read as %+v", text, r.Rec)
				}
				_ = r.Remaining()
			}
		}
	})
}
