package turn

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"

	mlx "forge.lthn.ai/core/go-mlx"
)

// nine matches templates that demand ids of calls with nine letters, as Mistral's do.
var nine = regexp.MustCompile(`length\s*!=\s*9\b`)

var nineLetters = regexp.MustCompile(`^[a-zA-Z0-9]{9}$`)

// shortIDs gives calls and their results ids that the template takes, the same ones for the same id of the client.
func shortIDs(f *Facts, messages []mlx.Message) {
	if !nine.MatchString(f.Template) {
		return
	}
	short := func(id string) string {
		if nineLetters.MatchString(id) {
			return id
		}
		sum := sha256.Sum256([]byte(id))
		return hex.EncodeToString(sum[:])[:9]
	}
	for i := range messages {
		m := &messages[i]
		m.ToolCalls = slices.Clone(m.ToolCalls)
		for k := range m.ToolCalls {
			m.ToolCalls[k].ID = short(m.ToolCalls[k].ID)
		}
		if m.Role == "tool" {
			m.ToolCallID = short(strings.TrimSpace(m.ToolCallID))
		}
	}
}
