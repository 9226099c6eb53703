package coordhttp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// errOver is what a handler gets that writes after it has returned.
var errOver = errors.New("coordhttp: the handler has returned, its answer is sent; nothing can be written any more")

// errGone is what it gets that writes to a client that has not taken what came before.
var errGone = errors.New("coordhttp: the client has gone")

// recorder is the handler's http.ResponseWriter. It holds the answer back until it is stored; what is flushed, taken over or too
// long goes to the client at once and is not kept.
type recorder struct {
	w      http.ResponseWriter
	before http.Header // w's own, which stays as it was when the handler began until something is sent
	header http.Header // the handler's own
	most   int         // bytes of body that are held back
	mark   string      // of replays, which is not stored
	hold   bool        // a flush sends nothing
	deaf   bool        // the handler does not hear that its client has gone

	patience time.Duration   // with a client that does not read; 0: the server's own
	lease    context.Context // under which the client is waited for
	unhurry  func() bool
	turn     sync.Mutex // guards waiting, and the deadline with it
	waiting  bool       // for the client

	mu        sync.Mutex
	status    int         // 0 until the handler says it
	committed http.Header // as it was then
	announced int64       // the body's length; negative where nothing was said
	written   int64       // of the body
	body      bytes.Buffer
	streaming bool
	hijacked  bool
	over      bool
	gone      bool // the client
}

func (o *operation) newRecorder(lease context.Context) *recorder {
	r := &recorder{
		w: o.w, before: o.w.Header(), header: cloneHeader(o.w.Header()), most: o.maxAnswer, mark: http.CanonicalHeaderKey(o.profile.ReplayedHeader), hold: o.hold, deaf: o.detach,
		patience: o.patience, lease: lease, announced: -1,
	}
	if server, is := o.r.Context().Value(http.ServerContextKey).(*http.Server); is && server.WriteTimeout > 0 {
		r.patience = 0
	}
	return r
}

func cloneHeader(h http.Header) http.Header {
	if h = h.Clone(); h == nil {
		return http.Header{}
	}
	return h
}

// Unwrap lets http.ResponseController reach what this writer has not.
func (r *recorder) Unwrap() http.ResponseWriter { return r.w }

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over || r.hijacked || r.status != 0 {
		return // as net/http, which logs it besides
	}
	if status < 100 || status > 999 { // as net/http, and before anything is stored
		panic(fmt.Sprintf("coordhttp: a handler answered with the status %d", status))
	}
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		r.inform(status)
		return
	}
	r.commit(status)
	if status == http.StatusSwitchingProtocols {
		r.stream()
	}
}

// inform passes on what comes ahead of the answer, which is not stored.
func (r *recorder) inform(status int) {
	before := r.w.Header().Clone()
	set(r.w.Header(), r.header)
	r.w.WriteHeader(status)
	set(r.w.Header(), before)
}

func (r *recorder) commit(status int) {
	r.status, r.committed = status, r.header.Clone()
	if said := r.committed.Get("Content-Length"); said != "" && bodyAllowed(status) {
		n, err := strconv.ParseInt(said, 10, 64)
		if err != nil || n < 0 { // as net/http, which sends none then
			delete(r.committed, "Content-Length")
			return
		}
		r.announced = n
	}
}

// set makes a header the same as another one.
func set(to, from http.Header) {
	clear(to)
	for name, values := range from {
		to[name] = values
	}
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.writable(); err != nil {
		return 0, err
	}
	if !bodyAllowed(r.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if left := r.announced - r.written; r.announced >= 0 && int64(len(p)) > left {
		n, err := r.take(p[:left])
		if err == nil {
			err = http.ErrContentLength
		}
		return n, err
	}
	return r.take(p)
}

// take keeps a piece of the body, or sends it.
func (r *recorder) take(p []byte) (int, error) {
	if !r.streaming && r.body.Len()+len(p) > r.most {
		r.stream()
	}
	if r.streaming {
		n, err := r.pass(p)
		r.written += int64(n)
		return n, err
	}
	r.written += int64(len(p))
	return r.body.Write(p)
}

// piece is how much a client has to take within one patience.
const piece = 32 << 10

// pass writes to the client. A detached handler, which is to finish without it, writes into the void where it has gone.
func (r *recorder) pass(p []byte) (n int, err error) {
	for part := range slices.Chunk(p, piece) {
		if r.gone {
			break
		}
		var sent int
		err = r.wait(func() error {
			var err error
			sent, err = r.w.Write(part)
			return err
		})
		if n += sent; err != nil {
			r.gone = true
		}
	}
	if r.deaf {
		return len(p), nil
	}
	if r.gone && err == nil {
		err = errGone
	}
	return n, err
}

// wait does what may take until the client reads, for so long only: the lease is held meanwhile, and a client that never reads would
// have it end, and the work be done again.
func (r *recorder) wait(send func() error) error {
	r.setWaiting(true)
	defer r.setWaiting(false)
	return send()
}

func (r *recorder) setWaiting(is bool) {
	r.turn.Lock()
	defer r.turn.Unlock()
	var end time.Time // none, when it is over: with HTTP/2 a deadline strikes whether somebody writes or not
	if is {
		end = time.Now().Add(r.patience)
		if r.lease.Err() != nil {
			end = time.Now().Add(min(r.patience, time.Second))
		}
	}
	if r.waiting = is; r.patience > 0 {
		_ = http.NewResponseController(r.w).SetWriteDeadline(end) // a writer that has no deadlines has another bound, or none
	}
}

// hurry ends a wait for the client when the lease ends, so that the handler hears of it. What it says then goes out to
// a client that reads.
func (r *recorder) hurry() {
	r.turn.Lock()
	defer r.turn.Unlock()
	if r.waiting {
		_ = http.NewResponseController(r.w).SetWriteDeadline(time.Now())
	}
}

func (r *recorder) writable() error {
	switch {
	case r.over:
		return errOver
	case r.hijacked:
		return http.ErrHijacked
	case r.status == 0:
		r.commit(http.StatusOK)
	}
	return nil
}

// ReadFrom takes a whole body, piece by piece, so that a goroutine that outlives the handler is stopped.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{r}, src)
}

func (r *recorder) WriteString(s string) (int, error) { return r.Write([]byte(s)) }

// stream sends what was held back, and all that follows at once.
func (r *recorder) stream() {
	r.streaming = true
	if r.unhurry = (func() bool { return true }); r.lease.Err() == nil {
		r.unhurry = context.AfterFunc(r.lease, r.hurry)
	}
	set(r.w.Header(), r.committed)
	r.w.WriteHeader(r.status)
	if r.body.Len() > 0 {
		_, _ = r.pass(r.body.Bytes()) // where the client is gone, the next write says so
	}
	r.body = bytes.Buffer{}
}

// Flush sends what there is; the answer is not kept then, unless HoldStreams was asked for.
func (r *recorder) Flush() { _ = r.FlushError() }

// FlushError is Flush with what went wrong.
func (r *recorder) FlushError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.writable(); err != nil {
		return err
	}
	if r.hold && !r.streaming {
		return nil
	}
	if !r.streaming {
		r.stream()
	}
	if err := r.wait(http.NewResponseController(r.w).Flush); err != nil && !r.deaf {
		return err
	}
	return nil
}

// Hijack hands the connection over.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil, nil, errOver
	}
	if r.status != 0 && !r.streaming {
		r.stream() // as net/http, which sends the header that was written
	}
	conn, rw, err := http.NewResponseController(r.w).Hijack()
	if err == nil {
		if r.hijacked = true; r.status == 0 {
			r.commit(http.StatusSwitchingProtocols)
		}
	}
	return conn, rw, err
}

// CloseNotify is what some frameworks still ask their writer for; net/http's has it.
func (r *recorder) CloseNotify() <-chan bool {
	if notifier, can := r.w.(interface{ CloseNotify() <-chan bool }); can {
		return notifier.CloseNotify()
	}
	return make(chan bool)
}

// finish ends the handler's writing and returns its answer.
func (r *recorder) finish() *answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	silent := r.status == 0 && !r.hijacked
	if r.over = true; r.status == 0 {
		r.commit(http.StatusOK)
	}
	trailers := r.trailers()
	if r.hijacked {
		return &answer{status: r.status, unkept: true, streamed: true}
	}
	cutOff := r.written < r.announced && (r.deaf || !r.gone) // a handler that hears of its client's end has a reason to stop
	if r.streaming {
		r.unhurry()
		maps.Copy(r.w.Header(), trailers)
		return &answer{status: r.status, unkept: true, streamed: true, cutOff: cutOff}
	}
	a := &answer{status: r.status, body: r.body.Bytes(), silent: silent, cutOff: cutOff}
	if _, typed := r.committed["Content-Type"]; !typed && len(a.body) > 0 && r.committed.Get("Content-Encoding") == "" {
		r.committed.Set("Content-Type", http.DetectContentType(a.body)) // as net/http, which would look at the replay anew
	}
	a.header = kept(r.committed, r.before)
	delete(a.header, r.mark)
	if trailers != nil {
		a.trailer = http.Header{}
		for name, values := range kept(trailers, nil) {
			a.trailer[strings.TrimPrefix(name, http.TrailerPrefix)] = values
		}
		delete(a.trailer, r.mark)
	}
	return a
}

// trailers are what the handler has set after its body: what it had announced, and what has the prefix, which they keep.
func (r *recorder) trailers() http.Header {
	var t http.Header
	put := func(name string, values []string) {
		if t == nil { // as nearly always
			t = http.Header{}
		}
		t[name] = values
	}
	for _, line := range r.committed["Trailer"] {
		for name := range strings.SplitSeq(line, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			if values := r.header[name]; len(values) > 0 {
				put(name, values)
			}
		}
	}
	for name, values := range r.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			put(name, values)
		}
	}
	return t
}

// send is the first answer: all that the handler has set, what is never stored too.
func (r *recorder) send(a *answer) {
	set(r.w.Header(), r.committed)
	delete(r.w.Header(), "Trailer")
	write(r.w, a)
}

// replay is an answer to those who come later: what was stored, over what stands there, with the mark of replays.
func replay(w http.ResponseWriter, a *answer, mark string) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.Header().Set(mark, "true")
	write(w, a)
}

func write(w http.ResponseWriter, a *answer) {
	h := w.Header()
	for name := range h {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			delete(h, name) // of a handler that had set it before its body
		}
	}
	for _, name := range sortedNames(a.trailer) {
		h.Add("Trailer", name)
	}
	h.Del("Content-Length")
	if len(a.trailer) == 0 && bodyAllowed(a.status) { // trailers come behind chunks
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.status)
	if len(a.body) > 0 {
		_, _ = w.Write(a.body) // the client is gone, or not; the answer is stored
	}
	for name, values := range a.trailer {
		h[name] = values
	}
}

// bodyAllowed says whether an answer with this status may have a body.
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}
