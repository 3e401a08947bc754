package bridge

// protocolVersion is what this side speaks; a worker's hello must carry the same.
const protocolVersion = 4

// message is every field that a worker sends, by type:
// hello, beat, pass, result, token, progress, cancelled, error.
type message struct {
	Type string `msgpack:"t"`
	ID   uint64 `msgpack:"id"`

	// hello
	PID      int      `msgpack:"pid"`
	Versions Versions `msgpack:"versions"`

	// pass: the requests that the worker is about to compute together
	Requests []uint64 `msgpack:"requests"`

	// result, by the request's type
	Info   *workerInfo `msgpack:"info"`
	Scores [][]float64 `msgpack:"scores"`
	IDs    []int32     `msgpack:"ids"`
	States int         `msgpack:"states"`

	// beat, and the result of memory: MLX's account, and the KV kept for later requests, in bytes
	Work        int64 `msgpack:"work"`
	Active      int64 `msgpack:"active"`
	Cache       int64 `msgpack:"cache"`
	Peak        int64 `msgpack:"peak"`
	PromptCache int64 `msgpack:"prompt_cache"`

	// token; Text also serves decode and render
	Token        int32   `msgpack:"token"`
	Text         string  `msgpack:"text"`
	LogProb      float64 `msgpack:"logprob"`
	Top          []topLP `msgpack:"top"`
	Finish       string  `msgpack:"finish"`
	PromptTokens int     `msgpack:"prompt_tokens"`
	CachedTokens int     `msgpack:"cached_tokens"`
	StopString   string  `msgpack:"stop_string"`
	Segments     []piece `msgpack:"segments"`
	CallText     string  `msgpack:"call_text"`

	// result of prompt_logprobs: those of the second token and those after it
	LogProbs []float64 `msgpack:"logprobs"`
	Tops     [][]topLP `msgpack:"tops"`

	// result of embed: the numbers of all vectors one after the other, float32 with the lowest byte first; how many are one vector's; and
	// whether that is to be normed
	Vectors   []byte `msgpack:"vectors"`
	Size      int    `msgpack:"size"`
	Normalize bool   `msgpack:"normalize"`

	// progress; Phase is of a beat too
	Phase string `msgpack:"phase"`
	Done  int64  `msgpack:"done"`
	Total int64  `msgpack:"total"`

	// cancelled
	Tokens  int     `msgpack:"tokens"`
	Seconds float64 `msgpack:"seconds"`

	// error
	Code      string    `msgpack:"code"`
	Message   string    `msgpack:"message"`
	Traceback string    `msgpack:"traceback"`
	Data      errorData `msgpack:"data"`
}

type topLP struct {
	//lint:ignore U1000 msgpack reads the pair's form from this field's tag
	_msgpack struct{} `msgpack:",as_array"`
	ID       int32
	LogProb  float64
}

// piece is a segment; its calls are names with arguments, a JSON object.
type piece struct {
	//lint:ignore U1000 msgpack reads the piece's form from this field's tag
	_msgpack struct{} `msgpack:",as_array"`
	Kind     string
	Text     string
	Calls    []namedCall
}

type namedCall struct {
	//lint:ignore U1000 msgpack reads the call's form from this field's tag
	_msgpack  struct{} `msgpack:",as_array"`
	Name      string
	Arguments string
}

// Versions are those of a worker's packages, and of the protocol it speaks.
type Versions struct {
	Protocol     int    `msgpack:"protocol" json:"protocol"`
	Python       string `msgpack:"python" json:"python"`
	MLX          string `msgpack:"mlx" json:"mlx"`
	MLXLM        string `msgpack:"mlx_lm" json:"mlx_lm"`
	Transformers string `msgpack:"transformers" json:"transformers"`
	Tokenizers   string `msgpack:"tokenizers" json:"tokenizers"`
}

type workerInfo struct {
	Architecture  string `msgpack:"architecture"`
	Device        string `msgpack:"device"`
	Layers        int    `msgpack:"layers"`
	HiddenSize    int    `msgpack:"hidden_size"`
	VocabSize     int    `msgpack:"vocab_size"`
	ContextLength int    `msgpack:"context_length"`
	DType         string `msgpack:"dtype"`
	Quantization  string `msgpack:"quantization"`
	Parameters    int64  `msgpack:"parameters"`
	WeightBytes   int64  `msgpack:"weight_bytes"`
	HasTemplate   bool   `msgpack:"has_template"`
	Batchable     bool   `msgpack:"batchable"` // requests can share a pass
	TokenizerHash string `msgpack:"tokenizer_hash"`
	TemplateHash  string `msgpack:"template_hash"`
	Fingerprint   string `msgpack:"fingerprint"` // of the files that were loaded
}

// errorData holds what the codes' Go errors need.
type errorData struct {
	Option string `msgpack:"option"`
	Tokens int    `msgpack:"tokens"`
	Limit  int    `msgpack:"limit"`
	Text   *int   `msgpack:"text"`
	Token  string `msgpack:"token"`

	TokenID   int32 `msgpack:"id"`
	VocabSize int   `msgpack:"vocab_size"`

	Architecture string `msgpack:"architecture"`
}

// head starts every message to a worker; each kind has its own struct around it.
type head struct {
	Type string `msgpack:"t"`
	ID   uint64 `msgpack:"id"`
}

func (h *head) header() *head { return h }

// request is any message that starts with a head.
type request interface{ header() *head }

// slotRequest is one that takes a slot. Its copy has no id, and is not changed when the original gets one.
type slotRequest interface {
	request
	copy() request
}

func (r classifyRequest) copy() request { return &r }
func (r traceRequest) copy() request    { return &r }

type bareRequest struct{ head }

type loadRequest struct {
	head
	Path            string `msgpack:"path"`
	TrustRemoteCode bool   `msgpack:"trust_remote_code"`
	Adapter         string `msgpack:"adapter,omitempty"`
	Draft           string `msgpack:"draft,omitempty"`
	Batch           int    `msgpack:"batch"`
	PromptCache     int64  `msgpack:"prompt_cache"`
}

type generateRequest struct {
	head
	Text string `msgpack:"text,omitempty"`
	// Chats travel as JSON, which keeps the order of keys in tools and arguments.
	Messages          string      `msgpack:"messages,omitempty"`
	Plain             bool        `msgpack:"plain,omitempty"` // messages hold no control tokens
	IDs               []int32     `msgpack:"ids,omitempty"`
	Tools             string      `msgpack:"tools,omitempty"`
	TemplateArguments string      `msgpack:"template_arguments,omitempty"`
	Resume            []int32     `msgpack:"resume,omitempty"` // what an earlier worker made of it
	AloneFrom         int         `msgpack:"alone_from,omitempty"`
	AloneUntil        int         `msgpack:"alone_until,omitempty"` // between these numbers of tokens it has passes of its own
	MaxTokens         int         `msgpack:"max_tokens"`
	Temperature       float32     `msgpack:"temperature"`
	TopK              int         `msgpack:"top_k"`
	TopP              float32     `msgpack:"top_p"`
	MinP              float32     `msgpack:"min_p"`
	XTCProbability    float32     `msgpack:"xtc_probability"`
	XTCThreshold      float32     `msgpack:"xtc_threshold"`
	RepetitionPenalty float32     `msgpack:"repetition_penalty"`
	RepetitionContext int         `msgpack:"repetition_context"`
	PresencePenalty   float32     `msgpack:"presence_penalty"`
	FrequencyPenalty  float32     `msgpack:"frequency_penalty"`
	LogitBias         []tokenBias `msgpack:"logit_bias"`
	Seed              uint64      `msgpack:"seed"`
	Stop              []string    `msgpack:"stop"`
	StopTokens        []int32     `msgpack:"stop_tokens"`
	IgnoreEOS         bool        `msgpack:"ignore_eos"`
	LogProbs          bool        `msgpack:"logprobs"`
	TopLogProbs       int         `msgpack:"top_logprobs"`
	Segments          bool        `msgpack:"segments"`
	KVBits            int         `msgpack:"kv_bits"`
	KVGroupSize       int         `msgpack:"kv_group_size"`
	KVStart           int         `msgpack:"kv_start"`
	MaxKVSize         int         `msgpack:"max_kv_size"`
	DraftTokens       int         `msgpack:"draft_tokens"`
	Grammar           *grammar    `msgpack:"grammar,omitempty"`
	Solo              bool        `msgpack:"solo"`
	Credit            int         `msgpack:"credit"`
}

// grammar is what the text must follow.
type grammar struct {
	Kind string `msgpack:"kind"`
	Text string `msgpack:"text"`
}

// tokenBias is a token with what is added to its logit.
type tokenBias struct {
	//lint:ignore U1000 msgpack reads the pair's form from this field's tag
	_msgpack struct{} `msgpack:",as_array"`
	ID       int32
	Bias     float32
}

type classifyRequest struct {
	head
	From   int      `msgpack:"from"` // index of the first text, for errors
	Texts  []string `msgpack:"texts"`
	Labels []string `msgpack:"labels"`
	// Completes: the texts are no turns of a chat, also where there is a template.
	Completes bool `msgpack:"completes,omitempty"`
}

type encodeRequest struct {
	head
	Text    string `msgpack:"text"`
	Special bool   `msgpack:"special"`
}

type decodeRequest struct {
	head
	IDs []int32 `msgpack:"ids"`
}

type renderRequest struct {
	head
	Messages          string `msgpack:"messages"`
	Tools             string `msgpack:"tools,omitempty"`
	TemplateArguments string `msgpack:"template_arguments,omitempty"`
	Plain             bool   `msgpack:"plain,omitempty"`
	IDs               bool   `msgpack:"ids,omitempty"` // the answer is token ids, and not text
}

type traceRequest struct {
	head
	IDs   []int32 `msgpack:"ids"`
	Rows  int     `msgpack:"rows"`
	Split int     `msgpack:"split"`
	OpsOf int     `msgpack:"ops_of"`
	File  string  `msgpack:"file"`
}

type creditRequest struct {
	head
	N int `msgpack:"n"`
}
