package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// served is a server over real models, on a real connection.
type served struct {
	*Server
	t   *testing.T
	url string
	log *testenv.Log
}

func serve(t *testing.T, c Config) *served {
	t.Helper()
	var err error
	c.Models, err = mlx.NewHost(mlx.HostOptions{}, []mlx.HostedModel{
		{Name: "chat", Path: filepath.Join(testenv.Root(), "tests", "models", "assistant")},
		{Name: "domains", Path: testenv.Model(t)},
	}...)
	require.NoError(t, err)
	s := &served{t: t, log: &testenv.Log{}}
	c.Log = slog.New(slog.NewJSONHandler(s.log, nil))
	s.Server, err = New(c)
	require.NoError(t, err)
	h := httptest.NewUnstartedServer(s)
	h.Listener = narrow{h.Listener}
	h.Start()
	s.url = h.URL
	t.Cleanup(func() {
		h.Close()
		require.NoError(t, c.Models.Close())
	})
	return s
}

// narrow gives connections small buffers, so that it soon shows when a client does not read.
type narrow struct{ net.Listener }

func (n narrow) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return c, c.(*net.TCPConn).SetWriteBuffer(8 << 10)
}

type answer struct {
	*http.Response
	body string
}

func (s *served) do(method, path, body string, headers ...string) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	require.NoError(s.t, err)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	require.NoError(s.t, err)
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	return answer{response, string(data)}
}

const hello = `{"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}`

// endless asks for tokens until it is stopped: the end token cannot come.
const endless = `{"model": "chat", "prompt": "x", "max_tokens": 4000, "logit_bias": {"2": -100}, "stream": %t}`

func TestAllowedOrigins(t *testing.T) {
	s := serve(t, Config{CORSOrigins: []string{"https://friend.example"}})
	for _, c := range []struct {
		name, origin, site, host string
		status                   int
	}{
		{"a program", "", "", "", 200},
		{"the page itself", s.url, "same-origin", "", 200},
		{"another site", "https://stranger.example", "cross-site", "", 403},
		{"another site that is allowed", "https://friend.example", "cross-site", "", 200},
		{"a name that was pointed here", "", "", "rebound.example", 403},
		{"a name of this machine", "", "", "localhost:8090", 200},
	} {
		headers := []string{"Origin", c.origin, "Sec-Fetch-Site", c.site}
		if c.host != "" {
			headers = append(headers, "Host", c.host)
		}
		a := s.do("POST", "/v1/chat/completions", hello, headers...)
		require.Equal(t, c.status, a.StatusCode, "%s: %s", c.name, a.body)
		if c.name == "another site that is allowed" {
			require.Equal(t, c.origin, a.Header.Get("Access-Control-Allow-Origin"))
		} else {
			require.Empty(t, a.Header.Get("Access-Control-Allow-Origin"), c.name)
		}
	}
	// A form of another site can send text without asking first.
	a := s.do("POST", "/v1/chat/completions", hello, "Content-Type", "text/plain")
	require.Equal(t, 415, a.StatusCode)
	const form = "application/x-www-form-urlencoded" // what curl -d says
	for _, origin := range [][]string{{"Origin", s.url}, {"Origin", "null"}, {"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "none"}} {
		a := s.do("POST", "/v1/chat/completions", hello, append(origin, "Content-Type", form)...)
		require.Contains(t, []int{403, 415}, a.StatusCode, origin)
	}
	require.Equal(t, 200, s.do("POST", "/v1/chat/completions", hello, "Content-Type", form).StatusCode, "no browser sent it")
	require.Equal(t, 415, s.do("POST", "/v1/chat/completions", hello, "Content-Type", "no/such; x").StatusCode)
}

func TestAllowedHosts(t *testing.T) {
	s := serve(t, Config{AllowedHosts: []string{"lab.example"}})
	require.Equal(t, 200, s.do("GET", "/v1/models", "", "Host", "lab.example:8090").StatusCode)
	require.Equal(t, 403, s.do("GET", "/v1/models", "", "Host", "lab.example.evil").StatusCode)
}

func TestKeysGuardAllButHealth(t *testing.T) {
	s := serve(t, Config{APIKeys: []string{"a", "b"}, Page: true})
	for path, want := range map[string]int{"/v1/models": 401, "/v1/status": 401, "/metrics": 401, "/nowhere": 401, "/healthz": 200, "/readyz": 200, "/": 200} {
		require.Equal(t, want, s.do("GET", path, "").StatusCode, path)
		require.NotEqual(t, 401, s.do("GET", path, "", "X-Api-Key", "b").StatusCode, path)
	}
	require.Contains(t, s.do("POST", "/v1/messages", "{}").body, `"type":"authentication_error"`)
	require.Equal(t, 401, s.do("GET", "/v1/models", "", "Authorization", "Bearer ab").StatusCode)
}

// held is a model whose streams stop after a few tokens and wait until they are stopped, so that no engine is so fast that
// nothing is left to stop.
type held struct {
	mlx.TextModel
	told chan<- struct{} // gets a value whenever a stream waits; nil for nobody
}

func (m held) Generate(ctx context.Context, prompt string, options ...mlx.GenerateOption) iter.Seq2[mlx.Token, error] {
	return func(yield func(mlx.Token, error) bool) {
		n := 0
		for tok, err := range m.TextModel.Generate(ctx, prompt, options...) {
			if n++; n == 4 {
				if m.told != nil {
					m.told <- struct{}{}
				}
				<-ctx.Done()
			}
			if !yield(tok, err) {
				return
			}
		}
	}
}

func hold(m mlx.TextModel) mlx.TextModel { return held{TextModel: m} }

func TestLimits(t *testing.T) {
	waits := make(chan struct{}, 2)
	s := serve(t, Config{MaxBody: 200, RequestTimeout: 2 * time.Second, Between: func(m mlx.TextModel) mlx.TextModel { return held{m, waits} }})
	a := s.do("POST", "/v1/chat/completions", `{"model": "`+strings.Repeat("x", 300)+`"}`)
	require.Equal(t, 413, a.StatusCode)
	require.Contains(t, a.body, "200 bytes")
	lease, err := s.config.Models.Acquire(t.Context(), "chat") // the load does not count
	require.NoError(t, err)
	lease.Release()
	a = s.do("POST", "/v1/completions", fmt.Sprintf(endless, false))
	require.Equal(t, 504, a.StatusCode, a.body)
	// The time of a stream is over when its first tokens are sent, however long they take here.
	for len(waits) > 0 {
		<-waits
	}
	s.limit = func(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
		if d != 2*time.Second {
			t.Errorf("a request has %v", d)
		}
		ctx, cancel := context.WithCancelCause(ctx)
		go func() {
			select {
			case <-waits:
				cancel(context.DeadlineExceeded)
			case <-ctx.Done():
			}
		}()
		return ctx, func() { cancel(nil) }
	}
	a = s.do("POST", "/v1/completions", fmt.Sprintf(endless, true))
	require.Equal(t, 200, a.StatusCode, "a stream has begun by then")
	require.Contains(t, a.body, `"code":"timeout"`)
	require.NotContains(t, a.body, "[DONE]")
}

func TestRequestIDs(t *testing.T) {
	s := serve(t, Config{})
	require.Equal(t, "mine-1", s.do("GET", "/v1/models", "", "X-Request-Id", "mine-1").Header.Get("X-Request-Id"))
	require.Regexp(t, "^req_[0-9a-f]{32}$", s.do("GET", "/v1/models", "", "X-Request-Id", "no\"good").Header.Get("X-Request-Id"))
	s.do("POST", "/v1/chat/completions", hello, "X-Request-Id", "mine-2")
	require.Eventually(t, func() bool { return strings.Contains(s.log.String(), "mine-2") }, 2*time.Minute, time.Millisecond)
	var line map[string]any
	for _, text := range strings.Split(strings.TrimSpace(s.log.String()), "\n") {
		if strings.Contains(text, "mine-2") {
			require.NoError(t, json.Unmarshal([]byte(text), &line))
		}
	}
	require.Equal(t, "chat", line["model"])
	require.Equal(t, "native", line["engine"])
	require.Positive(t, line["generated_tokens"])
	require.NotContains(t, s.log.String(), "very small model", "what is said is not logged")
}

func TestInvalidRequestsAreRefused(t *testing.T) {
	s := serve(t, Config{})
	for body, want := range map[string]string{
		`{`:                                  "not JSON",
		`[]`:                                 "body",
		`{"model": 3}`:                       "model",
		`{"model": "chat", "model": "chat"}`: "duplicate",
		`{"model": "chat", "messages": []}`:  "messages",
		`{"model": "chat", "messages": [{"role": "user", "content": "` + "\xff" + `"}]}`:  "UTF-8",
		`{"messages": [{"role": "user", "content": "x"}]}`:                                "model",
		`{"model": "chat", "messages": [{"role": "user", "content": "x"}], "stop": [1]}`:  "stop[0]",
		`{"model": "chat", "messages": [{"role": "user", "content": "x"}], "stop": [""]}`: "stop",
	} {
		a := s.do("POST", "/v1/chat/completions", body)
		require.Equal(t, 400, a.StatusCode, "%s: %s", body, a.body)
		require.Contains(t, a.body, want, body)
	}
	require.Equal(t, 404, s.do("GET", "/v1/nothing", "").StatusCode)
	require.Equal(t, 404, s.do("GET", "/v1/models/nobody", "").StatusCode)
	require.Equal(t, 404, s.do("GET", "/v1/responses/none", "").StatusCode)
}

// leave sends a request and goes away as soon as the model works for it.
func (s *served) leave(body string) {
	ctx, cancel := context.WithCancel(s.t.Context())
	r, err := http.NewRequestWithContext(ctx, "POST", s.url+"/v1/completions", strings.NewReader(body))
	require.NoError(s.t, err)
	r.Header.Set("Content-Type", "application/json")
	done := make(chan error, 1)
	go func() {
		response, err := http.DefaultClient.Do(r)
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		done <- err
	}()
	require.Eventually(s.t, func() bool { return s.state("chat").Active > 0 }, 2*time.Minute, time.Millisecond)
	cancel()
	require.Error(s.t, <-done)
}

func (s *served) state(name string) mlx.ModelState {
	for _, state := range s.config.Models.State().Models {
		if state.Name == name {
			return state
		}
	}
	return mlx.ModelState{}
}

func TestAClientThatLeavesEndsTheWork(t *testing.T) {
	s := serve(t, Config{Between: hold})
	for _, stream := range []bool{true, false} {
		s.leave(fmt.Sprintf(endless, stream))
		require.Eventually(t, func() bool { return s.state("chat").Active == 0 }, 2*time.Minute, time.Millisecond)
	}
	require.Eventually(t, func() bool {
		return strings.Contains(s.do("GET", "/metrics", "").body, `go_mlx_requests_total{model="chat",route="POST /v1/completions",status="499"} 2`)
	}, 2*time.Minute, 10*time.Millisecond)
	metrics, err := s.state("chat").Model.Metrics(t.Context())
	require.NoError(t, err)
	require.Zero(t, metrics.KVBytes)
}

func TestAClientThatDoesNotReadIsCutOff(t *testing.T) {
	s := serve(t, Config{WriteTimeout: time.Second})
	s.do("POST", "/v1/chat/completions", hello)
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(1024))
	// Log-probabilities make events large, so that the buffers fill.
	body := `{"model": "chat", "prompt": "x", "max_tokens": 4000, "logit_bias": {"2": -100}, "stream": true, "logprobs": 100}`
	fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	require.Eventually(t, func() bool { return strings.Contains(s.log.String(), `"status":499`) }, 2*time.Minute, 10*time.Millisecond)
	require.Eventually(t, func() bool { return s.state("chat").Active == 0 }, 2*time.Minute, 10*time.Millisecond)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(2*time.Minute)))
	got, _ := io.ReadAll(conn) // a connection that was cut off may end in an error
	require.Contains(t, string(got), "200 OK")
	require.NotContains(t, string(got), "[DONE]")
}

func TestDraining(t *testing.T) {
	for name, drain := range map[string]time.Duration{"long enough": time.Hour, "too short": 100 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			c := Config{}
			if name == "too short" {
				c.Between = hold
			}
			s := serve(t, c)
			s.farewell = time.Hour
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			url := "http://" + l.Addr().String()
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- s.Serve(ctx, l, drain) }()
			body := fmt.Sprintf(strings.Replace(endless, "4000", "600", 1), true)
			response, err := http.Post(url+"/v1/completions", "application/json", strings.NewReader(body))
			require.NoError(t, err)
			defer response.Body.Close()
			lines := bufio.NewReader(response.Body)
			_, err = lines.ReadString('\n')
			require.NoError(t, err)
			stop()
			require.Eventually(t, func() bool { return s.draining.Load() }, 2*time.Minute, time.Millisecond)
			rest, err := io.ReadAll(lines)
			require.NoError(t, err)
			if name == "long enough" {
				require.Contains(t, string(rest), "[DONE]")
			} else {
				require.Contains(t, string(rest), "shutting down")
			}
			require.NoError(t, <-ended)
			require.Equal(t, 503, s.do("GET", "/readyz", "").StatusCode)
			require.Equal(t, 200, s.do("GET", "/healthz", "").StatusCode)
			require.Equal(t, 503, s.do("POST", "/v1/chat/completions", hello).StatusCode)
			_, err = http.Get(url)
			require.Error(t, err)
		})
	}
}

// A browser opens connections before it has anything to ask. They are no reason to say that clients were cut off.
func TestAConnectionThatAsksNothingDoesNotFailTheEnd(t *testing.T) {
	s := serve(t, Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l, time.Millisecond) }()
	response, err := http.Get("http://" + l.Addr().String() + "/healthz") // it serves
	require.NoError(t, err)
	response.Body.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	response, err = http.Get("http://" + l.Addr().String() + "/healthz")
	require.NoError(t, err)
	response.Body.Close()
	stop()
	require.NoError(t, <-ended)
}

func TestMetricsAndStatus(t *testing.T) {
	s := serve(t, Config{})
	s.do("POST", "/v1/chat/completions", hello)
	s.do("POST", "/v1/classify", `{"model": "domains", "texts": ["The goalkeeper saved it.", "Boil the rice."], "labels": ["sport", "food"]}`)
	lines := []string{
		`go_mlx_requests_total{model="chat",route="POST /v1/chat/completions",status="200"} 1`,
		`go_mlx_first_token_seconds_count{model="chat"} 1`,
		`go_mlx_classified_texts_total{model="domains"} 2`,
		`go_mlx_model_loaded{engine="native",model="chat"} 1`,
		`go_mlx_model_loads_total{model="domains"} 1`,
		`go_mlx_model_bytes{kind="weights",model="chat"}`,
		`go_mlx_tokens_total{kind="generated",model="chat"}`,
	}
	// A model that does not answer soon is left out for once.
	text := ""
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		text = s.do("GET", "/metrics", "").body
		if !slices.ContainsFunc(lines, func(line string) bool { return !strings.Contains(text, line) }) {
			break
		}
	}
	for _, line := range lines {
		require.Contains(t, text, line)
	}
	var status struct {
		Models []struct {
			Name, Phase, Engine string
			Memory              struct{ Weights int64 }
		}
	}
	require.Eventually(t, func() bool {
		require.NoError(t, json.Unmarshal([]byte(s.do("GET", "/v1/status", "").body), &status))
		return len(status.Models) > 0 && status.Models[0].Memory.Weights > 0
	}, 2*time.Minute, 10*time.Millisecond)
	require.Len(t, status.Models, 2)
	require.Equal(t, "ready", status.Models[0].Phase)
}

func TestTraces(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	s := serve(t, Config{Tracer: provider})
	s.do("POST", "/v1/chat/completions", hello, "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	require.Eventually(t, func() bool { return len(spans.GetSpans()) == 1 }, 2*time.Minute, time.Millisecond)
	span := spans.GetSpans()[0]
	require.Equal(t, "POST /v1/chat/completions", span.Name)
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", span.SpanContext.TraceID().String(), "the client's trace goes on")
	require.Contains(t, span.Attributes, attribute.String("gen_ai.request.model", "chat"))
}

// Answers to one request are generated side by side.
func TestSeveralAnswers(t *testing.T) {
	s := serve(t, Config{})
	for _, stream := range []bool{false, true} {
		a := s.do("POST", "/v1/chat/completions", fmt.Sprintf(`{"model": "chat", "n": 4, "seed": 1, "temperature": 2, "max_tokens": 30, "stream": %t,
			"messages": [{"role": "user", "content": "Tell me a story"}]}`, stream))
		require.Equal(t, 200, a.StatusCode, a.body)
		require.Contains(t, a.body, `"index":3`)
		a = s.do("POST", "/v1/completions", fmt.Sprintf(`{"model": "chat", "prompt": ["a", "b", "c"], "n": 2, "logprobs": 2, "max_tokens": 9, "stream": %t}`, stream))
		require.Equal(t, 200, a.StatusCode, a.body)
		require.Contains(t, a.body, `"index":5`)
	}
}

func TestClassify(t *testing.T) {
	s := serve(t, Config{})
	var texts []string
	for _, sentence := range testenv.Heldout(t)[:150] {
		texts = append(texts, sentence.Text)
	}
	request := map[string]any{"model": "domains", "texts": texts, "labels": testenv.Labels(t), "scores": true}
	body, err := json.Marshal(request)
	require.NoError(t, err)
	type results struct{ Data []classified }
	var whole results
	a := s.do("POST", "/v1/classify", string(body))
	require.Equal(t, 200, a.StatusCode, a.body)
	require.NoError(t, json.Unmarshal([]byte(a.body), &whole))
	require.Len(t, whole.Data, 150)
	require.Len(t, whole.Data[0].Scores, 8)

	request["stream"] = true
	body, err = json.Marshal(request)
	require.NoError(t, err)
	var streamed results
	for _, event := range strings.Split(s.do("POST", "/v1/classify", string(body)).body, "\n\n") {
		if data, ok := strings.CutPrefix(event, "data: {"); ok {
			var part results
			require.NoError(t, json.Unmarshal([]byte("{"+data), &part))
			streamed.Data = append(streamed.Data, part.Data...)
		}
	}
	require.Equal(t, whole, streamed)
	request["stream"], request["prior"] = false, "none"
	body, err = json.Marshal(request)
	require.NoError(t, err)
	var bare results
	require.NoError(t, json.Unmarshal([]byte(s.do("POST", "/v1/classify", string(body)).body), &bare))
	require.NotEqual(t, whole.Data[0].Scores, bare.Data[0].Scores)
	for field, value := range map[string]any{"texts": []string{}, "labels": []string{}, "prompt": "no place", "prior": "best", "temperature": -1, "abstain_below": 2, "model": "nobody"} {
		bad := map[string]any{"model": "domains", "texts": texts[:1], "labels": []string{"a"}, field: value}
		body, err := json.Marshal(bad)
		require.NoError(t, err)
		a := s.do("POST", "/v1/classify", string(body))
		require.GreaterOrEqual(t, a.StatusCode, 400, field)
		require.Contains(t, a.body, `"param":"`+field+`"`)
	}
}

func TestAPanicIsOneRequestsError(t *testing.T) {
	s := serve(t, Config{})
	h := s.observe(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh") }))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, 500, w.Code)
	require.Contains(t, s.log.String(), "oh")
	require.NotContains(t, w.Body.String(), "goroutine")
}

func TestAStreamThatIsSilentIsKeptAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := httptest.NewRecorder()
		out := (&Server{}).newStream(t.Context(), w, openAI)
		time.Sleep(keepAlive - time.Second)
		require.False(t, out.started())
		time.Sleep(keepAlive / 2)
		require.True(t, out.started())
		require.NoError(t, out.Send("x", 1))
		out.close()
		require.Equal(t, ": still at work\n\nevent: x\ndata: 1\n\n", w.Body.String())
	})
}
