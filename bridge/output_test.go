package bridge

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOutputKeepsTheLastLines(t *testing.T) {
	l := newOutputLog(nil, listener{})
	for i := range 5000 {
		l.add(strings.Repeat("x", i%50) + "\n")
	}
	l.add("\x1b[31mred\x1b[0m text\n10%\r50%\r10")
	l.add("0%\r")
	l.add("\nlast")
	lines := strings.Split(l.String(), "\n")
	require.Equal(t, []string{"red text", "100%", "last"}, lines[len(lines)-3:], "what a carriage return overwrote is gone")
	require.Len(t, l.lines, tailLines)
}

func TestOutputWithoutLinesDoesNotFillTheMemory(t *testing.T) {
	l := newOutputLog(nil, listener{})
	for range 1000 {
		l.add(strings.Repeat("y", 10000))
	}
	require.LessOrEqual(t, len(l.open), lineBytes)
	l.add("\xff\xfe\n")
	require.True(t, strings.HasSuffix(l.String(), "\uFFFD"))
	require.EqualValues(t, 10_000_003, l.size())
}

func TestProgressBarsAreRead(t *testing.T) {
	var bars []bar
	l := newOutputLog(nil, listener{bar: func(b bar) { bars = append(bars, b) }})
	l.add("\rFetching 5 files:   0%|          | 0/5 [00:00<?, ?it/s]\rFetching 5 files:  40%|████      | 2/5 [00:01<00:01,  1.5it/s]\r")
	l.add("model.safetensors:  50%|█████     | 1.20G/2.4G [00:10<00:10, 120MB/s]\nnot a bar: 50% | done\n")
	require.Equal(t, []bar{{"Fetching 5 files", 0, 5}, {"Fetching 5 files", 2, 5}, {"model.safetensors", 1_200_000_000, 2_400_000_000}}, bars)
}
