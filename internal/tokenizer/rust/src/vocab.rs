//! The tokens of a vocabulary: their texts lie one behind the other in one buffer, in the order of their ids. Nothing is kept of a
//! token but where it ends and its id in a hash table.

use std::hash::BuildHasher;

use hashbrown::hash_table::Entry as Slot;
use hashbrown::{DefaultHashBuilder, HashTable};

/// Tokens by id and ids by token.
pub struct Vocab {
    text: String,       // of all tokens
    ends: Vec<u32>,     // where the text of each id ends; it begins where the one before ends
    empty: Option<u32>, // the id of the empty token; every other id without text is none
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

/// A token of a text that holds all tokens in any order.
pub struct Entry {
    pub begin: u32,
    pub end: u32,
    pub id: u32,
}

fn span(ends: &[u32], id: u32) -> (usize, usize) {
    let begin = if id == 0 { 0 } else { ends[id as usize - 1] };
    (begin as usize, ends[id as usize] as usize)
}

impl Vocab {
    pub fn token(&self, id: u32) -> Option<&str> {
        if id as usize >= self.ends.len() {
            return None;
        }
        let (begin, end) = span(&self.ends, id);
        (begin < end || self.empty == Some(id)).then(|| &self.text[begin..end])
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.ids
            .find(self.hasher.hash_one(token), |&id| {
                let (begin, end) = span(&self.ends, id);
                self.text.as_bytes()[begin..end] == *token.as_bytes()
            })
            .copied()
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// All ids that have a token, in no order.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.ids.iter().copied()
    }

    /// A vocabulary of tokens with ids. An id or a token that is there twice is for the library, as are ids far apart.
    pub fn of_entries(text: String, mut entries: Vec<Entry>) -> Result<Vocab, &'static str> {
        let size = entries.iter().map(|e| e.id as usize + 1).max().unwrap_or(0);
        if size > 2 * entries.len() + 4096 {
            return Err("ids far apart");
        }
        let in_order = entries.is_sorted_by(|a, b| a.id < b.id);
        if !in_order {
            entries.sort_unstable_by_key(|e| e.id);
        }
        if entries.windows(2).any(|two| two[0].id == two[1].id) {
            return Err("an id twice");
        }
        let sorted = if in_order {
            text
        } else {
            let mut sorted = String::with_capacity(text.len());
            entries.iter().for_each(|e| sorted.push_str(&text[e.begin as usize..e.end as usize]));
            sorted
        };
        let (mut ends, mut empty, mut end) = (Vec::with_capacity(size), None, 0);
        for e in &entries {
            ends.resize(e.id as usize, end); // ids without a token
            end += e.end - e.begin;
            ends.push(end);
            if e.begin == e.end {
                empty = Some(e.id);
            }
        }
        let (vocab, twice) = Vocab::index(sorted, ends, empty, entries.len());
        if twice {
            return Err("a token twice");
        }
        Ok(vocab)
    }

    /// A vocabulary of texts in the order of their ids. Ids without text have no token, and of ids with the same text all but the
    /// first have none either.
    pub fn of_texts(text: String, ends: Vec<u32>) -> Vocab {
        let some = ends.len();
        let (vocab, twice) = Vocab::index(text, ends, None, some);
        if !twice {
            return vocab;
        }
        let (mut text, mut ends) = (String::with_capacity(vocab.text.len()), Vec::with_capacity(some));
        for id in 0..some as u32 {
            if let Some(token) = vocab.token(id).filter(|token| vocab.id(token) == Some(id)) {
                text.push_str(token);
            }
            ends.push(text.len() as u32);
        }
        Vocab::index(text, ends, None, some).0
    }

    /// Fills the hash table; true if a token was there already.
    fn index(mut text: String, ends: Vec<u32>, empty: Option<u32>, count: usize) -> (Vocab, bool) {
        text.shrink_to_fit();
        let hasher = DefaultHashBuilder::default();
        let mut ids = HashTable::with_capacity(count);
        let mut twice = false;
        let bytes = text.as_bytes();
        let token = |id: u32| {
            let (begin, end) = span(&ends, id);
            &text[begin..end]
        };
        for id in 0..ends.len() as u32 {
            let (begin, end) = span(&ends, id);
            if begin == end && empty != Some(id) {
                continue;
            }
            let same = |&other: &u32| {
                let (b, e) = span(&ends, other);
                bytes[b..e] == bytes[begin..end]
            };
            match ids.entry(hasher.hash_one(token(id)), same, |&other| hasher.hash_one(token(other))) {
                Slot::Vacant(v) => {
                    v.insert(id);
                }
                Slot::Occupied(_) => twice = true,
            }
        }
        (Vocab { text, ends, empty, ids, hasher }, twice)
    }
}
