package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/internal/selftest"
)

// finding is a line of the doctor's report.
type finding struct {
	Part   string `json:"part"`
	State  string `json:"state"` // "ok", "missing" or "wrong"
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"` // what to run
	engine bool   // one of these must be ok
}

func doctorCommand() *cobra.Command {
	var python string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what works here, and what to run for what does not",
		Long: `Say what works here, and what to run for what does not: both engines with their versions and devices, memory, and,
in the go-mlx folder, the tools that build it. The exit code is 1 if neither engine works.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := examine(cmd.Context(), cmd.Root().Version, python)
			if asJSON {
				if err := printJSON(cmd.OutOrStdout(), findings); err != nil {
					return err
				}
			} else {
				printFindings(cmd.OutOrStdout(), findings)
			}
			for _, f := range findings {
				if f.engine && f.State == "ok" {
					return nil
				}
			}
			return errors.New("no engine works")
		},
	}
	cmd.Flags().StringVar(&python, "python", "", "Python interpreter to look at")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func examine(ctx context.Context, version, python string) []finding {
	native, cuda := examineNative(ctx)
	out := []finding{
		{Part: "go-mlx", State: "ok", Detail: fmt.Sprintf("%s, %s, %s/%s, %d processors", version, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())},
		native, examinePython(ctx, python), examineMemory(),
	}
	maps, _ := os.ReadFile("/proc/self/maps") // Linux has it
	if f, ok := examineCUDA(nvidiaCards(ctx), cuda, string(maps), exec.LookPath); ok {
		out = append(out, f)
	}
	if root := checkout(); root != "" {
		out = append(out, examineTools(root)...)
	}
	return out
}

func examinePython(ctx context.Context, python string) finding {
	f := finding{Part: "python engine", engine: true}
	interpreter, v, err := bridge.Inspect(ctx, python)
	if err != nil {
		f.State, f.Detail = "wrong", err.Error()
		if errors.Is(err, bridge.ErrNoPython) {
			f.State = "missing"
		}
		f.Advice = fmt.Sprintf("python3 -m venv .venv && .venv/bin/pip install 'mlx%s==%s' mlx-lm==%s msgpack && export GO_MLX_PYTHON=$PWD/.venv/bin/python", mlxExtra(), bridge.WantMLX, bridge.WantMLXLM)
		return f
	}
	f.State = "ok"
	f.Detail = fmt.Sprintf("%s: Python %s, mlx %s, mlx-lm %s, transformers %s, tokenizers %s", interpreter, v.Python, v.MLX, v.MLXLM, v.Transformers, v.Tokenizers)
	return f
}

// mlxExtra is the extra of MLX's package that pip needs on Linux.
func mlxExtra() string {
	if runtime.GOOS == "linux" {
		return "[cpu]"
	}
	return ""
}

// examineMemory reads what Linux tells of its memory.
func examineMemory() finding {
	f := finding{Part: "memory", State: "ok", Detail: "not known on this system"}
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return f
	}
	kib := func(name string) (n float64) {
		for line := range strings.Lines(string(data)) {
			if rest, ok := strings.CutPrefix(line, name+":"); ok {
				_, _ = fmt.Sscan(rest, &n) // 0 where the kernel writes it another way
			}
		}
		return n
	}
	f.Detail = fmt.Sprintf("%.1f GiB, %.1f GiB free", kib("MemTotal")/(1<<20), kib("MemAvailable")/(1<<20))
	return f
}

// checkout is the go-mlx folder above the working directory; "" elsewhere.
func checkout() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		if data, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(data), "module forge.lthn.ai/core/go-mlx\n") {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

// tools are what `make build` and `make test` need, with the commands that install them on Debian and on macOS.
var tools = [][4]string{
	{"go", "version", "download Go 1.26 from go.dev/dl", "brew install go"},
	{"cargo", "--version", "curl https://sh.rustup.rs -sSf | sh", "brew install rust"},
	{"c++", "--version", "apt-get install g++", "xcode-select --install"},
	{"make", "--version", "apt-get install make", "xcode-select --install"},
}

func examineTools(root string) []finding {
	var out []finding
	for _, tool := range tools {
		f := finding{Part: tool[0], State: "ok"}
		text, err := exec.Command(tool[0], tool[1]).Output()
		if err != nil {
			f.State, f.Detail, f.Advice = "missing", "not found", tool[2]
			if runtime.GOOS == "darwin" {
				f.Advice = tool[3]
			}
		} else {
			f.Detail, _, _ = strings.Cut(strings.TrimSpace(string(text)), "\n")
		}
		out = append(out, f)
	}
	f := finding{Part: "libraries", State: "ok", Detail: filepath.Join(root, "build", "lib")}
	if _, err := os.Stat(filepath.Join(root, "build", "lib", "libgomlx_tokenizer.a")); err != nil {
		f = finding{Part: "libraries", State: "missing", Detail: "not built", Advice: "make build"}
	}
	return append(out, f)
}

func printFindings(out io.Writer, findings []finding) {
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Part))
	}
	colours := map[string]string{"ok": "32", "missing": "33", "wrong": "31"}
	for _, f := range findings {
		state := fmt.Sprintf("%-7s", f.State)
		if isTerminal(out) && os.Getenv("NO_COLOR") == "" {
			state = "\x1b[" + colours[f.State] + "m" + state + "\x1b[0m"
		}
		fmt.Fprintf(out, "%-*s  %s  %s\n", width, f.Part, state, selftest.Indent(cmp.Or(f.Detail, "-"), width+11))
		if f.Advice != "" {
			fmt.Fprintf(out, "%*s  run: %s\n", width+9, "", f.Advice)
		}
	}
}
