package coordhttp

import (
	"fmt"
	"net/http"

	"github.com/onceward/coordinator"
	"github.com/onceward/coordinator/internal/sealed"
)

// Answer is what an operator settles an uncertain operation with: the answer that retries are to get.
type Answer struct {
	Status int // 200 to 599
	Header http.Header
	Body   []byte
}

// Payload returns the answer in the form that the middleware reads, for [coordinator.Resolution], which takes any other for
// [KindAnswerUnreadable]. The key is the whole one, as [KeyFrom] has it. The options are the middleware's, of which [Compress] and
// [Encrypt] count. Its errors are coordinator.ErrInvalid.
func (a Answer) Payload(key coordinator.Key, opts ...Option) ([]byte, error) {
	if a.Status < 200 || a.Status > 599 {
		return nil, invalid(fmt.Errorf("an Answer has a status from 200 to 599, not %d", a.Status))
	}
	if err := key.Validate(); err != nil {
		return nil, err
	}
	s, err := newSettings(opts)
	if err != nil {
		return nil, err
	}
	box, err := sealed.New(s.compress, s.keys)
	if err != nil {
		return nil, invalid(err)
	}
	header := http.Header{}
	for name, values := range a.Header {
		header[http.CanonicalHeaderKey(name)] = values
	}
	stored := answer{status: a.Status, header: kept(header, nil), body: a.Body}
	return box.Seal(stored.encode(), bindingOf(key)), nil
}
