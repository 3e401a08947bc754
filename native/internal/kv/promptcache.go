package kv

import (
	"cmp"
	"errors"
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// PromptCache keeps states of earlier requests for requests that begin with the same tokens: a trie of
// token ids whose nodes hold the KV caches of the whole path from the root. Two requests never share a
// cache that one of them writes to: MLX arrays do not change, and a stream that goes on from a node makes
// arrays of its own. A state is given out for exactly the tokens it was computed from. To take a longer
// one and forget its end is right only where nothing was overwritten; a sliding window that has moved on
// cannot go back (see RotatingCache.Trim), so such a state is not used. It belongs to the owner thread.
type PromptCache struct {
	budget, Bytes int64
	Root          *promptNode
	clock         int64
}

type promptNode struct {
	edge     []int32 // tokens between the parent and this node
	parent   *promptNode
	Children map[int32]*promptNode // by the first token of their edge
	state    *Sequence             // of all tokens from the root to here, or nil
	bytes    int64
	used     int64 // the clock at its last use
}

// minBranch is how many tokens two prompts must share for the place where they part to be worth a state.
const minBranch = 16

func NewPromptCache(budget int64) *PromptCache {
	return &PromptCache{budget: budget, Root: &promptNode{Children: map[int32]*promptNode{}}}
}

// Find returns a state of the longest beginning of ids that it can, for the caller to own, and the length
// of that; nil if there is none. branch is where ids part from an earlier request, if that is later.
func (c *PromptCache) Find(s *mlxc.Scope, ids []int32) (st *Sequence, n, branch int) {
	node, depth := c.Root, 0
	var best *promptNode
	for {
		if node.state != nil {
			best, n = node, depth
		}
		child := node.Children[at(ids, depth)]
		if child == nil {
			break
		}
		shared := CommonLength(child.edge, ids[depth:])
		depth += shared
		node = child
		if shared < len(child.edge) {
			break
		}
	}
	// Below the last node all states begin with ids[:depth].
	if node != best && depth > n {
		if longer, trimmed := c.trimmed(s, node, depth); longer != nil {
			return trimmed, depth, depth
		}
	}
	if depth > n && depth >= minBranch {
		branch = depth
	}
	if best == nil {
		return nil, 0, branch
	}
	c.touch(best)
	return best.state.Share(s), n, branch
}

// trimmed looks below a node for a state that can go back to its first n tokens.
func (c *PromptCache) trimmed(s *mlxc.Scope, node *promptNode, n int) (*promptNode, *Sequence) {
	if node.state != nil {
		st := node.state.Share(s)
		if st.Trim(s, st.Position()-n) {
			c.touch(node)
			return node, st
		}
		if err := st.Free(); err != nil {
			s.Fail(err)
		}
	}
	for _, child := range node.Children {
		if found, st := c.trimmed(s, child, n); found != nil {
			return found, st
		}
	}
	return nil, nil
}

// Keep stores a state under the tokens that it has seen, and forgets what was not used for longest when
// the budget is exceeded. The state stays the caller's.
func (c *PromptCache) Keep(s *mlxc.Scope, ids []int32, st *Sequence) error {
	size := st.Bytes()
	if size > c.budget || len(ids) == 0 {
		return nil
	}
	node := c.node(ids)
	if node.state == nil {
		shared := st.Share(s)
		if s.Err() != nil { // a state of which parts are missing must not be kept
			c.prune(node)
			return errors.Join(s.Err(), shared.Free())
		}
		node.state, node.bytes = shared, size
		c.Bytes += size
	}
	c.touch(node)
	return c.Shrink(c.budget)
}

// node finds or makes the node of ids.
func (c *PromptCache) node(ids []int32) *promptNode {
	node := c.Root
	for len(ids) > 0 {
		child := node.Children[ids[0]]
		if child == nil {
			child = &promptNode{edge: slices.Clone(ids), parent: node, Children: map[int32]*promptNode{}}
			node.Children[ids[0]] = child
			return child
		}
		shared := CommonLength(child.edge, ids)
		if shared < len(child.edge) {
			child = child.split(shared)
		}
		node, ids = child, ids[shared:]
	}
	return node
}

// split puts a node in the middle of an edge and returns it.
func (n *promptNode) split(length int) *promptNode {
	upper := &promptNode{edge: n.edge[:length:length], parent: n.parent, Children: map[int32]*promptNode{n.edge[length]: n}}
	n.parent.Children[n.edge[0]] = upper
	n.parent, n.edge = upper, n.edge[length:]
	return upper
}

func (c *PromptCache) touch(n *promptNode) {
	c.clock++
	n.used = c.clock
}

// Shrink forgets states, least recently used first, until at most limit bytes are held.
func (c *PromptCache) Shrink(limit int64) error {
	if c.Bytes <= limit {
		return nil
	}
	held := c.nodes()
	slices.SortFunc(held, func(a, b *promptNode) int { return cmp.Compare(a.used, b.used) })
	var errs []error
	for _, node := range held {
		if c.Bytes <= limit {
			break
		}
		errs = append(errs, c.forget(node))
	}
	return errors.Join(errs...)
}

// forget drops a node's state, and the node with those above it that lead nowhere any more.
func (c *PromptCache) forget(n *promptNode) error {
	err := n.state.Free()
	c.Bytes -= n.bytes
	n.state, n.bytes = nil, 0
	c.prune(n)
	return err
}

// prune takes away a node, and those above it, that lead nowhere.
func (c *PromptCache) prune(n *promptNode) {
	for n.parent != nil && n.state == nil && len(n.Children) == 0 {
		delete(n.parent.Children, n.edge[0])
		n = n.parent
	}
}

// nodes are all nodes with a state.
func (c *PromptCache) nodes() []*promptNode {
	var out []*promptNode
	var walk func(n *promptNode)
	walk = func(n *promptNode) {
		if n.state != nil {
			out = append(out, n)
		}
		for _, child := range n.Children {
			walk(child)
		}
	}
	walk(c.Root)
	return out
}

// tokens are the ids from the root to a node.
func (n *promptNode) tokens() []int32 {
	if n.parent == nil {
		return nil
	}
	return append(n.parent.tokens(), n.edge...)
}

// at is ids[i], or an id that no token has.
func at(ids []int32, i int) int32 {
	if i < len(ids) {
		return ids[i]
	}
	return -1
}

func CommonLength(a, b []int32) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
