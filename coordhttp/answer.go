package coordhttp

import (
	"encoding/binary"
	"errors"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/sealed"
)

// answer is what a handler said, as it is stored and replayed.
type answer struct {
	status   int
	header   http.Header // what the handler has set
	trailer  http.Header
	body     []byte
	unkept   bool // done, but the answer was not kept: there is a status alone
	streamed bool // the client has it already
	silent   bool // the handler has said nothing at all
	cutOff   bool // it is shorter than the handler has said
}

// The stored form: a flag, the status, header and trailer, and the body. How numbers and fields are written, internal/sealed has.
const (
	flagKept   = 'k'
	flagUnkept = 'u'
)

var errAnswer = errors.New("a stored answer that is cut off, or none")

func (a *answer) encode() []byte {
	if a.unkept {
		return binary.AppendUvarint([]byte{flagUnkept}, uint64(a.status))
	}
	b := make([]byte, 0, 256+len(a.body))
	b = binary.AppendUvarint(append(b, flagKept), uint64(a.status))
	b = sealed.AppendFields(b, a.header)
	b = sealed.AppendFields(b, a.trailer)
	return append(b, a.body...)
}

func sortedNames(h http.Header) []string {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func decodeAnswer(stored []byte) (*answer, error) {
	if len(stored) == 0 || stored[0] != flagKept && stored[0] != flagUnkept {
		return nil, errAnswer
	}
	r := sealed.Reader{Rest: stored[1:]}
	a := &answer{unkept: stored[0] == flagUnkept, status: r.Number(999)}
	if !a.unkept {
		a.header, a.trailer = r.Fields(), r.Fields()
		a.body = r.Rest
	}
	if r.Bad || a.status < 101 || a.unkept && len(r.Rest) > 0 {
		return nil, errAnswer
	}
	return a, nil
}

// neverStored are headers of one connection or one caller; with those that Connection names.
var neverStored = map[string]bool{
	"Set-Cookie": true, "Set-Cookie2": true, "Authorization": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Proxy-Authentication-Info": true, "Authentication-Info": true, "Connection": true, "Keep-Alive": true, "Proxy-Connection": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Content-Length": true, "Date": true,
	unstoredHeader: true, unprotectedHeader: true, // of one answer; and see finish, for the mark of replays
}

// kept is what may be stored of the fields that a handler has set: not those that are as they were before it.
func kept(set, before http.Header) http.Header {
	var dropped map[string]bool
	for _, line := range set["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if dropped == nil {
				dropped = map[string]bool{}
			}
			dropped[textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	h := http.Header{}
	for name, values := range set {
		canonical := textproto.CanonicalMIMEHeaderKey(strings.TrimPrefix(name, http.TrailerPrefix))
		old, was := before[name]
		theirs := was && slices.Equal(values, old) && !representation(canonical)
		if !neverStored[canonical] && !dropped[canonical] && !theirs {
			h[name] = values
		}
	}
	for name := range before {
		if _, stayed := set[name]; !stayed && !neverStored[textproto.CanonicalMIMEHeaderKey(name)] {
			h[name] = nil // the handler has taken it away
		}
	}
	return h
}

// representation says whether a header tells about the body, and belongs to it whoever has set it.
func representation(name string) bool {
	switch name {
	case "Etag", "Last-Modified", "Location", "Vary":
		return true
	}
	return strings.HasPrefix(name, "Content-")
}

// bindingOf is what an encrypted answer is bound to: the key that it is the answer for.
func bindingOf(key coordinator.Key) []byte { return sealed.Bound(key.Scope, key.ID, key.Resource) }
