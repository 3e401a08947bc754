package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
)

// examineSystem names the operating system and the processor, as far as they say it.
func examineSystem(ctx context.Context) []finding {
	ask := func(name string, args ...string) string {
		out, err := exec.CommandContext(ctx, name, args...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	system, processor := "", ""
	switch runtime.GOOS {
	case "darwin":
		system = strings.TrimSpace("macOS " + ask("sw_vers", "-productVersion"))
		processor = ask("sysctl", "-n", "machdep.cpu.brand_string")
		if bytes, err := strconv.ParseFloat(ask("sysctl", "-n", "hw.memsize"), 64); err == nil {
			processor += fmt.Sprintf(", %.0f GiB", bytes/(1<<30))
		}
	case "linux":
		system = fileField("/etc/os-release", "PRETTY_NAME", "=")
		processor = fileField("/proc/cpuinfo", "model name", ":")
	}
	return []finding{
		{Part: "system", State: "ok", Detail: orUnknown(system)}, {Part: "processor", State: "ok", Detail: orUnknown(processor)},
	}
}

// fileField is the value of the first line NAME=VALUE (or another separator) with a name.
func fileField(path, name, separator string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, separator); ok && strings.TrimSpace(key) == name {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return ""
}

func orUnknown(s string) string {
	if s == "" {
		return "not known"
	}
	return s
}
