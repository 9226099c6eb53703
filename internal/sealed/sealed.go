// Package sealed is the outer form of what adapters store as results: compressed where that is worth it, encrypted where keys
// are given, and bound to the record that it stands in.
package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// A sealed text begins with its version and its form. Encrypted ones go on with the key's name, its length in front, and
// what AES-GCM made of the rest.
const (
	version = '1'

	asIs            = 'p'
	compressed      = 'z'
	encrypted       = 'P'
	compressedFirst = 'Z' // and then encrypted
)

const (
	keyBytes   = 32 // AES-256
	maxKeyName = 64
	// largest is the most that a text may unpack to, so that a small one cannot fill the memory.
	largest = 64 << 20
)

// The errors of [Box.Open].
var (
	ErrNewer   = errors.New("stored by a newer version of this module")
	ErrForm    = errors.New("not a stored answer, or cut off")
	ErrKey     = errors.New("encrypted with a key that is not in the ring")
	ErrForeign = errors.New("does not decrypt: changed, moved from another record, or made with another key of the same name")
	ErrPlain   = errors.New("stored without encryption, which is refused where there are keys")
)

// Keys are what results are encrypted with: with Current from now on; the others are for what was stored before.
type Keys struct {
	Current    string
	Ring       map[string][]byte
	AllowPlain bool // opens what is not encrypted too
}

// Box seals and opens. It is safe for concurrent use.
type Box struct {
	above   int // bytes; what is longer is compressed; negative: nothing is
	current string
	ring    map[string]cipher.AEAD
	plain   bool
	packer  *zstd.Encoder
	opener  *zstd.Decoder
}

// New makes a box that compresses what is longer than above bytes, nothing where it is negative, and encrypts unless keys is nil.
func New(above int, keys *Keys) (*Box, error) {
	b := &Box{above: above, plain: true}
	var err error
	if above >= 0 {
		if b.packer, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithLowerEncoderMem(true)); err != nil {
			return nil, err
		}
	}
	// What was compressed before is read also by those who do not compress.
	if b.opener, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(largest), zstd.WithDecoderLowmem(true)); err != nil {
		return nil, err
	}
	if keys == nil {
		return b, nil
	}
	b.plain, b.current, b.ring = keys.AllowPlain, keys.Current, map[string]cipher.AEAD{}
	for name, key := range keys.Ring {
		if len(name) < 1 || len(name) > maxKeyName {
			return nil, fmt.Errorf("a key's name has 1 to %d bytes, not %d", maxKeyName, len(name))
		}
		if len(key) != keyBytes {
			return nil, fmt.Errorf("key %q has %d bytes; AES-256 takes %d", name, len(key), keyBytes)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		if b.ring[name], err = cipher.NewGCMWithRandomNonce(block); err != nil {
			return nil, err
		}
	}
	if b.ring[b.current] == nil {
		return nil, fmt.Errorf("the current key %q is not in the ring", b.current)
	}
	return b, nil
}

// Seal returns text in its outer form. Where it is encrypted it opens for the same bound only.
func (b *Box) Seal(text, bound []byte) []byte {
	form := byte(asIs)
	if b.above >= 0 && len(text) > b.above {
		if packed := b.packer.EncodeAll(text, make([]byte, 0, len(text))); len(packed) < len(text) {
			form, text = compressed, packed
		}
	}
	if b.ring == nil {
		return append(append(make([]byte, 0, 2+len(text)), version, form), text...)
	}
	form -= 'p' - 'P'
	head := append([]byte{version, form, byte(len(b.current))}, b.current...)
	return b.ring[b.current].Seal(bytes.Clone(head), nil, text, boundTo(head, bound))
}

// boundTo is what the encryption vouches for beside the text: its form and the record.
func boundTo(head, bound []byte) []byte { return append(bytes.Clone(head), bound...) }

// Open returns the text that was sealed for bound.
func (b *Box) Open(stored, bound []byte) ([]byte, error) {
	if len(stored) < 2 || stored[0] < '1' || stored[0] > '9' {
		return nil, ErrForm
	}
	if stored[0] != version {
		return nil, ErrNewer
	}
	form, text := stored[1], stored[2:]
	switch form {
	case asIs, compressed:
		if !b.plain {
			return nil, ErrPlain
		}
	case encrypted, compressedFirst:
		var err error
		if text, err = b.decrypt(stored, bound); err != nil {
			return nil, err
		}
		form += 'p' - 'P'
	default:
		return nil, ErrForm
	}
	if form == asIs {
		return text, nil
	}
	text, err := b.opener.DecodeAll(text, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	return text, nil
}

func (b *Box) decrypt(stored, bound []byte) ([]byte, error) {
	if len(stored) < 3 || len(stored) < 3+int(stored[2]) {
		return nil, ErrForm
	}
	end := 3 + int(stored[2])
	key, there := b.ring[string(stored[3:end])]
	if !there {
		return nil, ErrKey
	}
	text, err := key.Open(nil, nil, stored[end:], boundTo(stored[:end], bound))
	if err != nil {
		return nil, ErrForeign
	}
	return text, nil
}
