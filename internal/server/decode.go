package server

import (
	"errors"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// decode reads a request's JSON into value. What a struct has no field for is an error that names it: no setting is
// ignored.
func decode(r *http.Request, value any) error {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return &apiError{Status: http.StatusUnsupportedMediaType, Kind: kindInvalid, Message: "Content-Type must be application/json"}
	}
	err = json.UnmarshalRead(r.Body, value, json.RejectUnknownMembers(true))
	if err == nil {
		return nil
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return tooLarge
	}
	var api *apiError
	if errors.As(err, &api) {
		return api
	}
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		field := fieldName(semantic.JSONPointer)
		switch {
		case errors.Is(semantic.Err, json.ErrUnknownName):
			return &apiError{
				Status: http.StatusBadRequest, Kind: kindInvalid, Code: "unsupported_parameter", Param: field,
				Message: field + ": this server does not support the field",
			}
		case semantic.Err != nil:
			return badField(field, "%v", semantic.Err)
		}
		return badField(field, "a JSON %s cannot stand here", semantic.JSONKind)
	}
	return &apiError{Status: http.StatusBadRequest, Kind: kindInvalid, Code: "invalid_json", Message: "the body is not JSON: " + err.Error()}
}

// fieldName writes /messages/0/content as messages[0].content, as clients know it.
func fieldName(p jsontext.Pointer) string {
	var b strings.Builder
	for token := range p.Tokens() {
		if strings.Trim(token, "0123456789") == "" && token != "" && b.Len() > 0 {
			b.WriteString("[" + token + "]")
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(token)
	}
	if b.Len() == 0 {
		return "body"
	}
	return b.String()
}

// errNull is a list that holds null, which would be read as "" or as token 0.
var errNull = errors.New("the list holds null")

// holdsNull reports whether null is in a list, or in a list in it.
func holdsNull(value jsontext.Value) bool {
	var list []jsontext.Value
	if value.Kind() != '[' || json.Unmarshal(value, &list) != nil {
		return false
	}
	return slices.ContainsFunc(list, func(v jsontext.Value) bool { return v.Kind() == 'n' || holdsNull(v) })
}

// oneOrMany is a JSON string, or a list of them.
type oneOrMany []string

func (o *oneOrMany) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '[' {
		var list []*string
		if err := json.UnmarshalDecode(d, &list); err != nil {
			return err
		}
		*o = make(oneOrMany, len(list))
		for i, text := range list {
			if text == nil {
				return errNull
			}
			(*o)[i] = *text
		}
		return nil
	}
	var one *string
	if err := json.UnmarshalDecode(d, &one); err != nil {
		return err
	}
	if one != nil {
		*o = oneOrMany{*one}
	}
	return nil
}
