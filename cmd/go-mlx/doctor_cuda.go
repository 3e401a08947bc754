package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// nvidiaCards are the machine's NVIDIA GPUs as their driver names them, each with the driver's version and a compute capability; none where there is no driver.
func nvidiaCards(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	text, err := exec.CommandContext(ctx, "nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader").Output()
	if err != nil {
		return nil
	}
	var cards []string
	for line := range strings.Lines(string(text)) {
		part := strings.Split(strings.TrimSpace(line), ", ")
		if len(part) == 3 {
			cards = append(cards, fmt.Sprintf("%s, driver %s, compute capability %s", part[0], part[1], part[2]))
		}
	}
	return cards
}

// loadedLibraries are the files of a library that this process has loaded, by Linux's list of them.
func loadedLibraries(maps, prefix string) []string {
	var out []string
	for line := range strings.Lines(maps) {
		at := strings.IndexByte(line, '/')
		if at < 0 {
			continue
		}
		path := strings.TrimSpace(line[at:])
		if strings.HasPrefix(filepath.Base(path), prefix) && !slices.Contains(out, path) {
			out = append(out, path)
		}
	}
	return out
}

// examineCUDA says which GPUs, driver and compiler there are, and whether MLX uses them; ok is false where there is nothing of NVIDIA's. cuda is what the
// native engine has found, "" if it computes on something else.
func examineCUDA(cards []string, cuda, maps string, lookPath func(string) (string, error)) (f finding, ok bool) {
	if len(cards) == 0 && cuda == "" {
		return f, false
	}
	f = finding{Part: "NVIDIA GPU", State: "ok", Detail: strings.Join(cards, "\n")}
	lines := slices.Clone(cards)
	if cuda == "" {
		f.State, f.Advice = "missing", "make distclean && make build DEVICE=cuda"
		f.Detail = strings.Join(append(lines, "MLX does not use it: its library is the one for the CPU"), "\n")
		return f, true
	}
	lines = append(lines, "MLX uses it: "+cuda)
	for _, library := range loadedLibraries(maps, "libnvrtc.so") {
		lines = append(lines, "kernels are compiled by "+library)
	}
	if path, err := lookPath("nvcc"); err == nil {
		lines = append(lines, "CUDA toolkit: "+path)
	} else if home := os.Getenv("CUDA_HOME"); home != "" {
		lines = append(lines, "CUDA toolkit: "+home)
	} else {
		lines = append(lines, "no CUDA toolkit (nvcc); only kernels that MLX compiles itself want its headers, or those of NVIDIA's packages for Python")
	}
	f.Detail = strings.Join(lines, "\n")
	return f, true
}
