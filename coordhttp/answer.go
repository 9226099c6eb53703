package coordhttp

import (
	"encoding/binary"
	"errors"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/onceward/coordinator"
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
	cutOff   bool // it is not as long as the handler has said
}

// The stored form: a flag, the status, header and trailer as numbers of names, each with its values, and the body. Numbers are
// varints, and texts have their length in front.
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
	b = appendFields(b, a.header)
	b = appendFields(b, a.trailer)
	return append(b, a.body...)
}

func appendFields(b []byte, h http.Header) []byte {
	b = binary.AppendUvarint(b, uint64(len(h)))
	for _, name := range sortedNames(h) { // the same answer has the same bytes
		b = appendText(b, name)
		b = binary.AppendUvarint(b, uint64(len(h[name])))
		for _, value := range h[name] {
			b = appendText(b, value)
		}
	}
	return b
}

func sortedNames(h http.Header) []string {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader takes a stored answer apart; after an error everything is zero.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) number(most uint64) int {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 || n > most {
		r.rest, r.bad = nil, true
		return 0
	}
	r.rest = r.rest[size:]
	return int(n)
}

func (r *reader) text() string {
	n := r.number(uint64(len(r.rest)))
	if n > len(r.rest) {
		r.rest, r.bad = nil, true
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

func (r *reader) fields() http.Header {
	h := http.Header{}
	for range r.number(uint64(len(r.rest))) {
		name := r.text()
		values := make([]string, 0, 1)
		for range r.number(uint64(len(r.rest))) {
			values = append(values, r.text())
		}
		if r.bad {
			return nil
		}
		h[name] = values
	}
	return h
}

func decodeAnswer(stored []byte) (*answer, error) {
	if len(stored) == 0 || stored[0] != flagKept && stored[0] != flagUnkept {
		return nil, errAnswer
	}
	r := reader{rest: stored[1:]}
	a := &answer{unkept: stored[0] == flagUnkept, status: r.number(999)}
	if !a.unkept {
		a.header, a.trailer = r.fields(), r.fields()
		a.body = r.rest
	}
	if r.bad || a.status < 101 || a.unkept && len(r.rest) > 0 {
		return nil, errAnswer
	}
	return a, nil
}

// neverStored are headers of one connection or one caller; with those that Connection names.
var neverStored = map[string]bool{
	"Set-Cookie": true, "Set-Cookie2": true, "Authorization": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Proxy-Authentication-Info": true, "Authentication-Info": true, "Connection": true, "Keep-Alive": true, "Proxy-Connection": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Content-Length": true, "Date": true,
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
func bindingOf(key coordinator.Key) []byte {
	b := make([]byte, 0, 16+len(key.Scope)+len(key.ID)+len(key.Resource))
	for _, s := range []string{key.Scope, key.ID, key.Resource} {
		b = appendText(b, s)
	}
	return b
}
