//! Expressions as they are written for minijinja.

use crate::names;

/// What was read: text for minijinja, and what may follow it there without brackets.
pub struct Written {
    pub text: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Constant, // which minijinja would fold
    Name,    // also what is in brackets
    Postfix, // a call, an attribute or an item
    Filter,
}

impl Written {
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Written { text: text.into(), kind }
    }

    /// As what an attribute or an item is taken of.
    pub fn base(self) -> String {
        if matches!(self.kind, Kind::Name | Kind::Postfix) {
            self.text
        } else {
            format!("({})", self.text)
        }
    }

    /// As what a filter is applied to.
    pub fn filtered(self) -> String {
        if self.kind == Kind::Filter {
            self.text
        } else {
            self.base()
        }
    }

    /// As the left side of `and` and `or`: minijinja folds `constant and constant` to a boolean.
    pub fn condition(self) -> String {
        if self.kind == Kind::Constant {
            format!("__value({})", self.text)
        } else {
            self.text
        }
    }
}

/// A key of a dict, which is looked at.
pub fn key(text: &str) -> String {
    looked_at("__key", text)
}

/// Whether an index is a text that can only be a key.
pub fn is_key(text: &str) -> bool {
    let key = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
    key.is_some_and(|key| !names::is_attribute(key))
}

/// A call of a function, unless the value is a text or a number as it stands.
fn looked_at(function: &str, text: &str) -> String {
    let simple = text.starts_with('\'') || text.bytes().all(|b| b.is_ascii_digit()) || matches!(text, "true" | "false" | "none");
    if simple {
        text.to_owned()
    } else {
        format!("{function}({text})")
    }
}

pub fn tuple_of(items: Vec<Written>) -> Written {
    let items: Vec<String> = items.into_iter().map(|item| item.text).collect();
    Written::new(Kind::Postfix, format!("__tuple({})", items.join(",")))
}

/// A text as minijinja reads it.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out + "'"
}
