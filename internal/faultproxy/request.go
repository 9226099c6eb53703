package faultproxy

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
)

// Request is one command of a client.
type Request struct {
	// Conn numbers the client's connection, from 1 in order of arrival.
	Conn int
	// N numbers the requests of all connections, from 1.
	N int64
	// Name is the command in upper case, without a subcommand.
	Name string
	// Args are the command and its arguments as sent. They may be kept, but
	// not changed.
	Args [][]byte

	raw []byte
}

// readRequest reads an array of bulk strings, or a line of words, which is
// what people type into a terminal.
func readRequest(r *bufio.Reader) (Request, error) {
	raw, err := appendLine(nil, r)
	if err != nil {
		return Request{}, err
	}
	if raw[0] != '*' {
		return request(raw, bytes.Fields(raw))
	}
	n, err := length(raw)
	if err != nil {
		return Request{}, err
	}
	type span struct{ from, to int }
	var spans []span // not slices yet, since raw still grows and moves
	for range n {
		at := len(raw)
		if raw, err = appendLine(raw, r); err != nil {
			return Request{}, err
		}
		if raw[at] != '$' {
			return Request{}, fmt.Errorf("%w: argument %q", errProtocol, raw[at:])
		}
		size, err := length(raw[at:])
		if err != nil {
			return Request{}, err
		}
		at = len(raw)
		if raw, err = appendBulk(raw, r, size); err != nil {
			return Request{}, err
		}
		spans = append(spans, span{at, at + max(size, 0)})
	}
	args := make([][]byte, len(spans))
	for i, s := range spans {
		args[i] = raw[s.from:s.to:s.to]
	}
	return request(raw, args)
}

func request(raw []byte, args [][]byte) (Request, error) {
	if len(args) == 0 {
		return Request{}, fmt.Errorf("%w: empty request", errProtocol)
	}
	return Request{Name: strings.ToUpper(string(args[0])), Args: args, raw: raw}, nil
}

// unpairs tells whether from this request on, replies do not follow requests
// one by one any more.
func (r Request) unpairs() bool {
	switch r.Name {
	case "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "MONITOR":
		return true
	case "CLIENT":
		return len(r.Args) > 1 && strings.EqualFold(string(r.Args[1]), "REPLY")
	}
	return false
}

// prepares tells whether the request changes how the connection's later ones
// are understood, so that a late one needs it on its new connection, too.
func (r Request) prepares() bool {
	switch r.Name {
	case "HELLO", "AUTH", "SELECT", "READONLY", "READWRITE":
		return true
	}
	return false
}
