package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// StreamDecoder turns ids into text piece by piece. The pieces together are exactly what Decode gives
// for all ids: a piece is held back while it ends in an incomplete UTF-8 character, and Finish gives
// what is left.
//
// Vocabularies with byte fallback (Gemma, Llama 2) spell rare characters in tokens of one byte. Such tokens in a row are
// decoded together, and one bad byte makes U+FFFD of them all, also of characters that were complete before it. So they are
// held back to the end of the row.
type StreamDecoder struct {
	tokenizer *Tokenizer
	skip      bool    // special tokens
	ids       []int32 // what is decoded together: the piece under way and the one before it
	given     int     // bytes of the decoded window that were given out
	settled   int     // ids of the window whose text was given out
}

// NewStreamDecoder starts an empty stream. With skipSpecial, special tokens give no text.
func (t *Tokenizer) NewStreamDecoder(skipSpecial bool) *StreamDecoder {
	return &StreamDecoder{tokenizer: t, skip: skipSpecial}
}

// Add takes the next id and returns the text that is certain by now.
func (d *StreamDecoder) Add(id int32) (string, error) {
	kind, err := d.tokenizer.kind(id, d.skip)
	if err != nil || kind == kindNothing { // which does not end a row of bytes either
		return "", err
	}
	d.ids = append(d.ids, id)
	if kind == kindByte {
		return "", nil
	}
	text, err := d.tokenizer.Decode(d.ids, d.skip)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(text, string(utf8.RuneError)) || len(text) < d.given {
		return "", nil
	}
	piece := text[d.given:]
	if piece == "" {
		return "", nil
	}
	// A decoder may strip or join at the start of what it is given, so the window keeps the last piece
	// in front of the next one. Its text alone tells how many bytes to pass over.
	d.ids = d.ids[d.settled:]
	d.settled = len(d.ids)
	head, err := d.tokenizer.Decode(d.ids, d.skip)
	if err != nil {
		return "", err
	}
	d.given = len(head)
	return piece, nil
}

// Finish returns the text held back, with U+FFFD for bytes that never became a character.
func (d *StreamDecoder) Finish() (string, error) {
	text, err := d.tokenizer.Decode(d.ids, d.skip)
	if err != nil {
		return "", err
	}
	piece := ""
	if len(text) > d.given {
		piece = text[d.given:]
	}
	d.ids, d.given, d.settled = nil, 0, 0
	return piece, nil
}
