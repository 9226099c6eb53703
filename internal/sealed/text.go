package sealed

import (
	"encoding/binary"
	"slices"
)

// What adapters write into their answers: numbers are varints, texts have their length in front, and fields are a number of
// names, each with its values.

// AppendText appends s so that it can be told where it ends.
func AppendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// AppendFields appends names with their values, in one order, so that the same fields have the same bytes.
func AppendFields(b []byte, fields map[string][]string) []byte {
	b = binary.AppendUvarint(b, uint64(len(fields)))
	var few [16]string // on the stack
	names := few[:0]
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b = AppendText(b, name)
		b = binary.AppendUvarint(b, uint64(len(fields[name])))
		for _, value := range fields[name] {
			b = AppendText(b, value)
		}
	}
	return b
}

// Bound is what an encrypted text is bound to: the parts of the key of the record that it stands in.
func Bound(scope, id, resource string) []byte {
	b := make([]byte, 0, 16+len(scope)+len(id)+len(resource))
	for _, s := range []string{scope, id, resource} {
		b = AppendText(b, s)
	}
	return b
}

// Reader takes apart what was written so. After an error all that it returns is zero.
type Reader struct {
	Rest []byte // what was not read yet
	Bad  bool   // there was an error
}

// Number reads a number that may not be over most.
func (r *Reader) Number(most uint64) int {
	n, size := binary.Uvarint(r.Rest)
	if size <= 0 || n > most {
		r.Rest, r.Bad = nil, true
		return 0
	}
	r.Rest = r.Rest[size:]
	return int(n)
}

// Text reads what [AppendText] has written.
func (r *Reader) Text() string {
	n := r.Number(uint64(len(r.Rest)))
	if n > len(r.Rest) {
		r.Rest, r.Bad = nil, true
		return ""
	}
	s := string(r.Rest[:n])
	r.Rest = r.Rest[n:]
	return s
}

// Fields reads what [AppendFields] has written.
func (r *Reader) Fields() map[string][]string {
	fields := map[string][]string{}
	for range r.Number(uint64(len(r.Rest))) {
		name := r.Text()
		values := make([]string, 0, 1)
		for range r.Number(uint64(len(r.Rest))) {
			values = append(values, r.Text())
		}
		if r.Bad {
			return nil
		}
		fields[name] = values
	}
	return fields
}
