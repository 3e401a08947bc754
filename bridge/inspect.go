package bridge

import (
	"context"
	"encoding/json"
	"fmt"
)

// Inspect finds the interpreter that Load would use, given what the option Interpreter was given, and reads the versions of its packages.
// Packages that this program does not work with are an ErrVersion, which says what to install.
func Inspect(ctx context.Context, python string) (interpreter string, v Versions, err error) {
	tool, err := NewTool(python)
	if err != nil {
		return "", v, err
	}
	out, err := tool.Run(ctx, "-c", "import json; from go_mlx_worker.__main__ import versions; print(json.dumps(versions()))")
	if err != nil {
		return tool.interpreter, v, err
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return tool.interpreter, v, fmt.Errorf("%w: versions: %w", errProtocol, err)
	}
	return tool.interpreter, v, checkVersions(tool.interpreter, v)
}
