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

// limitsOfMemory are where Linux says how much memory a group of processes may have, such as those of a container.
var limitsOfMemory = []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}

// systemMemory is how many bytes of memory this process may use, as far as the system says it; 0 where it does not.
func systemMemory() int64 {
	var total int64
	switch runtime.GOOS {
	case "darwin":
		if out, err := exec.Command("sysctl", "-n", "hw.memsize").Output(); err == nil {
			_, _ = fmt.Sscan(string(out), &total)
		}
	case "linux":
		_, _ = fmt.Sscan(fileField("/proc/meminfo", "MemTotal", ":"), &total) // in KiB
		total <<= 10
		for _, path := range limitsOfMemory {
			var limit int64
			if data, err := os.ReadFile(path); err == nil {
				_, _ = fmt.Sscan(string(data), &limit) // "max" is none
			}
			if limit > 0 {
				total = min(total, limit)
			}
		}
	}
	return total
}

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
