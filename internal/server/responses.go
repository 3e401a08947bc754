package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
)

// response is the answer; its fields are those that OpenAI's clients expect.
type response struct {
	ID                 string            `json:"id"`
	Object             string            `json:"object"`
	CreatedAt          int64             `json:"created_at"`
	Status             string            `json:"status"`
	Error              any               `json:"error"`
	IncompleteDetails  any               `json:"incomplete_details"`
	Instructions       *string           `json:"instructions"`
	MaxOutputTokens    *int              `json:"max_output_tokens"`
	Metadata           map[string]string `json:"metadata"`
	Model              string            `json:"model"`
	Output             []outputItem      `json:"output"`
	ParallelToolCalls  bool              `json:"parallel_tool_calls"`
	PreviousResponseID *string           `json:"previous_response_id"`
	Store              bool              `json:"store"`
	Temperature        *float32          `json:"temperature"`
	Text               responseText      `json:"text"`
	ToolChoice         string            `json:"tool_choice"`
	Tools              []responseTool    `json:"tools"`
	TopP               *float32          `json:"top_p"`
	Truncation         string            `json:"truncation"`
	Usage              *responseUsage    `json:"usage"`
}

type responseUsage struct {
	InputTokens         int           `json:"input_tokens"`
	InputTokensDetails  inputDetails  `json:"input_tokens_details"`
	OutputTokens        int           `json:"output_tokens"`
	OutputTokensDetails outputDetails `json:"output_tokens_details"`
	TotalTokens         int           `json:"total_tokens"`
}

type inputDetails struct {
	CachedTokens int `json:"cached_tokens"`
}

type outputDetails struct {
	ReasoningTokens int `json:"reasoning_tokens"`
}

// outputItem is a thought, a message, or a call.
type outputItem struct {
	Type      string        `json:"type"`
	ID        string        `json:"id"`
	Status    string        `json:"status"`
	Role      string        `json:"role,omitempty"`
	Content   []contentPart `json:"content,omitzero"`
	Summary   []string      `json:"summary,omitzero"`
	CallID    string        `json:"call_id,omitempty"`
	Name      string        `json:"name,omitempty"`
	Arguments *string       `json:"arguments,omitempty"`
}

type contentPart struct {
	Type        string   `json:"type"`
	Text        string   `json:"text"`
	Annotations []string `json:"annotations,omitzero"`
	LogProbs    []string `json:"logprobs,omitzero"`
}

func outputText(text string) contentPart {
	return contentPart{Type: "output_text", Text: text, Annotations: []string{}, LogProbs: []string{}}
}

func (s *Server) createResponse(w http.ResponseWriter, r *http.Request) error {
	var q responseRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	switch {
	case q.Truncation != "" && q.Truncation != "disabled":
		return badField("truncation", "this server leaves nothing out of a conversation")
	case q.Background:
		return badField("background", "a response ends with its request here")
	}
	var earlier []mlx.Message
	if q.PreviousResponseID != "" {
		stored, ok := s.responses.get(q.PreviousResponseID)
		if !ok {
			return &apiError{Status: http.StatusNotFound, Kind: kindInvalid, Code: "previous_response_not_found", Param: "previous_response_id",
				Message: "there is no response " + q.PreviousResponseID + ": it was not stored, or is gone since"}
		}
		earlier = stored.conversation
	}
	messages, err := q.turnMessages(earlier)
	if err != nil {
		return err
	}
	list, err := toolsOf(q.Tools, q.ToolChoice, q.ParallelToolCalls)
	if err != nil {
		return err
	}
	format, err := jsonFormat{q.Text.Format.Type, q.Text.Format.Schema}.option("text.format")
	if err != nil {
		return err
	}
	lease, err := s.acquire(w, r, q.Model)
	if err != nil {
		return err
	}
	defer lease.Release()
	var effort *string
	if q.Reasoning != nil {
		effort = q.Reasoning.Effort
	}
	t, err := s.prepare(lease, wish{
		messages: messages, tools: list, format: format, formatField: "text.format", effort: effort, effortField: "reasoning.effort",
		sampling: &sampling{Temperature: q.Temperature, TopP: q.TopP},
	})
	if err != nil {
		return err
	}
	t.options = append(t.options, s.maxTokens(q.MaxOutputTokens))
	if q.PromptCacheKey != "" {
		t.options = append(t.options, mlx.WithSession(q.PromptCacheKey))
	}
	a := &responding{response: q.skeleton(list), server: s, conversation: messages}
	if q.Instructions != "" { // they count for one answer
		a.conversation = messages[1:]
	}
	if q.Stream {
		a.out = s.newSSE(w)
		defer a.out.close()
	}
	if err := a.run(r, t); err != nil {
		if a.out != nil && a.out.started() {
			a.fail(broken(r, err))
			return nil
		}
		return err
	}
	if a.out == nil {
		writeJSON(w, http.StatusOK, a.response)
	}
	return nil
}

func (q *responseRequest) skeleton(list tools) *response {
	orNil := func(text string) *string {
		if text == "" {
			return nil
		}
		return &text
	}
	mode := list.mode
	if mode == "" {
		mode = choiceAuto
	}
	if q.Text.Format.Type == "" {
		q.Text.Format.Type = "text"
	}
	if q.Metadata == nil {
		q.Metadata = map[string]string{}
	}
	if q.Tools == nil {
		q.Tools = []responseTool{}
	}
	return &response{
		ID: newID("resp_"), Object: "response", CreatedAt: time.Now().Unix(), Status: "in_progress", Instructions: orNil(q.Instructions),
		MaxOutputTokens: q.MaxOutputTokens, Metadata: q.Metadata, Model: q.Model, Output: []outputItem{}, ParallelToolCalls: !list.oneCall,
		PreviousResponseID: orNil(q.PreviousResponseID), Store: q.Store == nil || *q.Store, Temperature: q.Temperature, Text: q.Text,
		ToolChoice: string(mode), Tools: q.Tools, TopP: q.TopP, Truncation: "disabled",
	}
}

// responding builds a response, and streams it if there is a stream.
type responding struct {
	*response
	server       *Server
	out          *sse
	conversation []mlx.Message // without instructions, for the next turn
	number       int           // of the next event
	open         bool          // the last output item grows
}

// send streams an event; without a stream it does nothing.
func (a *responding) send(kind string, fields map[string]any) error {
	if a.out == nil {
		return nil
	}
	fields["type"], fields["sequence_number"] = kind, a.number
	a.number++
	return a.out.send(kind, fields)
}

func (a *responding) snapshot(kind string) error {
	return a.send(kind, map[string]any{"response": a.response})
}

// run generates the answer.
func (a *responding) run(r *http.Request, t *turn) error {
	begun := false
	begin := func() error {
		if begun {
			return nil
		}
		begun = true
		return errors.Join(a.snapshot("response.created"), a.snapshot("response.in_progress"))
	}
	o, err := a.server.run(r.Context(), t, func(e event) error {
		if err := begin(); err != nil {
			return err
		}
		return a.add(e)
	})
	if err == nil {
		err = errors.Join(begin(), a.closeItem())
	}
	if err != nil {
		return err
	}
	a.Usage = &responseUsage{
		InputTokens: o.prompt, OutputTokens: o.generated, OutputTokensDetails: outputDetails{o.reasoning}, TotalTokens: o.prompt + o.generated,
	}
	a.Status = "completed"
	if o.finish == mlx.FinishLength {
		a.Status, a.IncompleteDetails = "incomplete", map[string]string{"reason": "max_output_tokens"}
	}
	if a.Store {
		a.server.responses.put(&storedResponse{response: a.response, conversation: append(a.conversation, a.message())})
	}
	return a.snapshot("response." + a.Status)
}

// message is the answer as a turn of the conversation.
func (a *responding) message() mlx.Message {
	m := mlx.Message{Role: "assistant"}
	for _, item := range a.Output {
		switch item.Type {
		case "message":
			m.Content += item.Content[0].Text
		case "reasoning":
			m.Reasoning += item.Content[0].Text
		case "function_call":
			m.ToolCalls = append(m.ToolCalls, mlx.ToolCall{ID: item.CallID, Type: "function", Function: mlx.FunctionCall{Name: item.Name, Arguments: json.RawMessage(*item.Arguments)}})
		}
	}
	return m
}

// add appends an event to the item that grows, or begins another one.
func (a *responding) add(e event) error {
	if e.kind == eventCall {
		if err := a.closeItem(); err != nil {
			return err
		}
		empty := ""
		item := outputItem{Type: "function_call", ID: newID("fc_"), Status: "in_progress", CallID: e.call.ID, Name: e.call.Function.Name, Arguments: &empty}
		if err := a.openItem(item); err != nil {
			return err
		}
		arguments := string(e.call.Function.Arguments)
		a.last().Arguments = &arguments
		return a.send("response.function_call_arguments.delta", a.of(map[string]any{"delta": arguments}))
	}
	kind, prefix, part := "message", "msg_", outputText("")
	if e.kind == eventReasoning {
		kind, prefix, part = "reasoning", "rs_", contentPart{Type: "reasoning_text"}
	}
	if !a.open || a.last().Type != kind {
		if err := a.closeItem(); err != nil {
			return err
		}
		item := outputItem{Type: kind, ID: newID(prefix), Status: "in_progress", Content: []contentPart{}}
		if kind == "message" {
			item.Role = "assistant"
		} else {
			item.Summary = []string{}
		}
		if err := a.openItem(item); err != nil {
			return err
		}
		a.last().Content = []contentPart{part}
		if err := a.send("response.content_part.added", a.of(map[string]any{"content_index": 0, "part": part})); err != nil {
			return err
		}
	}
	a.last().Content[0].Text += e.text
	return a.send("response."+part.Type+".delta", a.of(a.quiet(map[string]any{"content_index": 0, "delta": e.text})))
}

// quiet adds the log-probabilities that events of text must have.
func (a *responding) quiet(fields map[string]any) map[string]any {
	if a.last().Type == "message" {
		fields["logprobs"] = []string{}
	}
	return fields
}

func (a *responding) last() *outputItem { return &a.Output[len(a.Output)-1] }

// of says which item an event is about.
func (a *responding) of(fields map[string]any) map[string]any {
	fields["item_id"], fields["output_index"] = a.last().ID, len(a.Output)-1
	return fields
}

func (a *responding) openItem(item outputItem) error {
	a.Output = append(a.Output, item)
	a.open = true
	return a.send("response.output_item.added", map[string]any{"output_index": len(a.Output) - 1, "item": item})
}

// closeItem ends the item that grows, if there is one.
func (a *responding) closeItem() error {
	if !a.open {
		return nil
	}
	a.open = false
	item := a.last()
	item.Status = "completed"
	var err error
	if item.Type == "function_call" {
		err = a.send("response.function_call_arguments.done", a.of(map[string]any{"arguments": *item.Arguments, "name": item.Name}))
	} else {
		part := item.Content[0]
		err = errors.Join(
			a.send("response."+part.Type+".done", a.of(a.quiet(map[string]any{"content_index": 0, "text": part.Text}))),
			a.send("response.content_part.done", a.of(map[string]any{"content_index": 0, "part": part})),
		)
	}
	return errors.Join(err, a.send("response.output_item.done", map[string]any{"output_index": len(a.Output) - 1, "item": *item}))
}

// fail ends a stream that has begun.
func (a *responding) fail(e *apiError) {
	a.Status, a.Error = "failed", map[string]string{"code": "server_error", "message": e.Message}
	_ = a.snapshot("response.failed") // the client may be why
}

func (s *Server) getResponse(w http.ResponseWriter, r *http.Request) error {
	stored, ok := s.responses.get(r.PathValue("id"))
	if !ok {
		return noResponse(r.PathValue("id"))
	}
	writeJSON(w, http.StatusOK, stored.response)
	return nil
}

func (s *Server) deleteResponse(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if !s.responses.remove(id) {
		return noResponse(id)
	}
	writeJSON(w, http.StatusOK, map[string]any{"id": id, "object": "response", "deleted": true})
	return nil
}

func noResponse(id string) error {
	return &apiError{Status: http.StatusNotFound, Kind: kindInvalid, Code: "response_not_found", Message: "there is no response " + id}
}
