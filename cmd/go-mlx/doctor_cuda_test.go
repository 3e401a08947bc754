package main

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheDoctorTellsOfAnNVIDIAGPU(t *testing.T) {
	none := func(string) (string, error) { return "", exec.ErrNotFound }
	_, ok := examineCUDA(nil, "", "", none)
	require.False(t, ok, "a machine without one")

	card := "NVIDIA H200, driver 580.159.03, compute capability 9.0"
	f, ok := examineCUDA([]string{card}, "", "", none)
	require.True(t, ok)
	require.Equal(t, "missing", f.State)
	require.Contains(t, f.Detail, card)
	require.Contains(t, f.Advice, "DEVICE=cuda")

	maps := "7f00-7f01 r-xp 00000000 00:1a 42   /venv/nvidia/cu13/lib/libnvrtc.so.13\n7f01-7f02 r--p 00001000 00:1a 42   /venv/nvidia/cu13/lib/libnvrtc.so.13\n" +
		"7f03-7f04 rw-p 00000000 00:00 0 [heap]\n"
	f, ok = examineCUDA([]string{card}, "compute capability 9.0", maps, func(string) (string, error) { return "/usr/local/cuda/bin/nvcc", nil })
	require.True(t, ok)
	require.Equal(t, "ok", f.State)
	require.Empty(t, f.Advice)
	require.Equal(t, card+"\nMLX uses it: compute capability 9.0\nkernels are compiled by /venv/nvidia/cu13/lib/libnvrtc.so.13\nCUDA toolkit: /usr/local/cuda/bin/nvcc", f.Detail)
}
