// Package clients tries OpenAI's official Go client against the server, on both engines. It is a module of its own, so that
// programs which use go-mlx do not get the client with it.
package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"
)

var client openai.Client

var engines = []string{"native", "python"}

const greeting = "Hello! I am a very small model. Ask me about the weather, about harbours, or for some code."

func TestMain(m *testing.M) {
	code, err := withServer(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withServer(m *testing.M) (code int, err error) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		return 1, err
	}
	chat := filepath.Join(root, "tests", "models", "assistant")
	cmd := exec.Command(filepath.Join(root, "bin", "go-mlx"), "serve", "--port", "0", "--model", "native="+chat+",engine=native",
		"--model", "python="+chat+",engine=python", "--python", filepath.Join(root, ".venv", "bin", "python"))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return 1, err
	}
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("%w: run make build", err)
	}
	lines := bufio.NewScanner(stderr)
	address := regexp.MustCompile(`address=(\S+)`)
	for lines.Scan() {
		if found := address.FindStringSubmatch(lines.Text()); found != nil {
			client = openai.NewClient(option.WithBaseURL(found[1]+"v1"), option.WithAPIKey("none"), option.WithMaxRetries(0))
			break
		}
	}
	go func() {
		for lines.Scan() { // or the server would wait for a reader
		}
	}()
	code = m.Run()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		return 1, err
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return 1, err
	}
	return code, nil
}

func each(t *testing.T, test func(t *testing.T, engine string)) {
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) { test(t, engine) })
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func equal[T comparable](t *testing.T, want, got T) {
	t.Helper()
	if want != got {
		t.Fatalf("want %v, got %v", want, got)
	}
}

func ask(engine, text string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: engine, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(text)}}
}

var weather = openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
	Name:        "get_weather",
	Description: openai.String("Current weather of a city"),
	Parameters: shared.FunctionParameters{
		"type": "object", "properties": map[string]any{"city": map[string]string{"type": "string"}}, "required": []string{"city"},
	},
})

func TestChatAndItsStream(t *testing.T) {
	each(t, func(t *testing.T, engine string) {
		whole := must[*openai.ChatCompletion](t)(client.Chat.Completions.New(t.Context(), ask(engine, "Hello")))
		equal(t, greeting, whole.Choices[0].Message.Content)
		equal(t, "stop", whole.Choices[0].FinishReason)

		params := ask(engine, "Hello")
		params.StreamOptions.IncludeUsage = openai.Bool(true)
		stream := client.Chat.Completions.NewStreaming(t.Context(), params)
		var all openai.ChatCompletionAccumulator
		for stream.Next() {
			if !all.AddChunk(stream.Current()) {
				t.Fatal("a chunk does not fit")
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		equal(t, greeting, all.Choices[0].Message.Content)
		equal(t, whole.Usage.TotalTokens, all.Usage.TotalTokens)
	})
}

func TestTools(t *testing.T) {
	each(t, func(t *testing.T, engine string) {
		params := ask(engine, "What is the weather in Hamburg?")
		params.Tools = []openai.ChatCompletionToolUnionParam{weather}
		first := must[*openai.ChatCompletion](t)(client.Chat.Completions.New(t.Context(), params))
		equal(t, "tool_calls", first.Choices[0].FinishReason)
		call := first.Choices[0].Message.ToolCalls[0]
		var arguments struct{ City string }
		if err := json.Unmarshal([]byte(call.Function.Arguments), &arguments); err != nil {
			t.Fatal(err)
		}
		equal(t, "Hamburg", arguments.City)
		params.Messages = append(params.Messages, first.Choices[0].Message.ToParam(), openai.ToolMessage(`{"temperature": 9, "sky": "windy"}`, call.ID))
		second := must[*openai.ChatCompletion](t)(client.Chat.Completions.New(t.Context(), params))
		equal(t, "It is windy in Hamburg, 9 degrees.", second.Choices[0].Message.Content)
	})
}

func TestJSONSchema(t *testing.T) {
	params := ask("native", "Name a harbour and its depth as JSON")
	params.ResponseFormat = openai.ChatCompletionNewParamsResponseFormatUnion{OfJSONSchema: &shared.ResponseFormatJSONSchemaParam{
		JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{Name: "harbour", Strict: openai.Bool(true), Schema: map[string]any{
			"type": "object", "properties": map[string]any{"depth": map[string]any{"type": "integer", "maximum": 9}}, "required": []string{"depth"}, "additionalProperties": false,
		}},
	}}
	answer := must[*openai.ChatCompletion](t)(client.Chat.Completions.New(t.Context(), params))
	var harbour struct{ Depth int }
	if err := json.Unmarshal([]byte(answer.Choices[0].Message.Content), &harbour); err != nil || harbour.Depth > 9 {
		t.Fatal(err, answer.Choices[0].Message.Content)
	}
}

func TestResponses(t *testing.T) {
	each(t, func(t *testing.T, engine string) {
		params := responses.ResponseNewParams{Model: engine, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Hello")}}
		whole := must[*responses.Response](t)(client.Responses.New(t.Context(), params))
		equal(t, greeting, whole.OutputText())
		stream := client.Responses.NewStreaming(t.Context(), params)
		text, last := "", ""
		for stream.Next() {
			event := stream.Current()
			if event.Type == "response.output_text.delta" {
				text += event.Delta
			}
			last = event.Type
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		equal(t, greeting, text)
		equal(t, "response.completed", last)
	})
}

func TestEmbeddings(t *testing.T) {
	answer := must[*openai.CreateEmbeddingResponse](t)(client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{
		Model: "native", Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a boat", "a clock"}},
	}))
	equal(t, 2, len(answer.Data))
	equal(t, len(answer.Data[0].Embedding), len(answer.Data[1].Embedding))
}

func TestErrorsNameTheField(t *testing.T) {
	params := ask("native", "Hello")
	params.TopP = openai.Float(7)
	_, err := client.Chat.Completions.New(t.Context(), params)
	var api *openai.Error
	if !errors.As(err, &api) || api.StatusCode != 400 || api.Param != "top_p" {
		t.Fatal(err)
	}
	_, err = client.Chat.Completions.New(t.Context(), ask("nobody", "Hello"))
	if !errors.As(err, &api) || api.StatusCode != 404 || api.Code != "model_not_found" {
		t.Fatal(err)
	}
}

// atWork is how many requests a model of the server has.
func atWork(t *testing.T, engine string) int {
	var status struct {
		Models []struct {
			Name   string
			Active int
		}
	}
	if err := client.Get(t.Context(), "status", nil, &status); err != nil {
		t.Fatal(err)
	}
	for _, m := range status.Models {
		if m.Name == engine {
			return m.Active
		}
	}
	t.Fatal("no model", engine)
	return 0
}

// until waits for something that has to come.
func until(t *testing.T, what string, come func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !come(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what, "has not come")
		}
	}
}

func TestAContextThatEndsStopsTheAnswer(t *testing.T) {
	each(t, func(t *testing.T, engine string) {
		must[*openai.ChatCompletion](t)(client.Chat.Completions.New(t.Context(), ask(engine, "Hello"))) // loads the model
		until(t, "its end", func() bool { return atWork(t, engine) == 0 })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		params := ask(engine, "Tell me a long story")
		params.Temperature = openai.Float(1.9)
		params.N = openai.Int(8)
		params.LogitBias = map[string]int64{"2": -100} // without the end-of-text token, answers reach their limit, seconds later
		params.MaxTokens = openai.Int(4000)
		ended := make(chan error, 1)
		go func() {
			_, err := client.Chat.Completions.New(ctx, params)
			ended <- err
		}()
		until(t, "the request", func() bool { return atWork(t, engine) > 0 })
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		until(t, "the end of the work", func() bool { return atWork(t, engine) == 0 })
	})
}
