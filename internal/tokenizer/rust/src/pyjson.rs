//! JSON text exactly as Python's `json.dumps` writes it.

use serde_json::Value;
use std::fmt::Write;

/// The arguments of `json.dumps`.
pub struct Style {
    pub indent: Option<String>,
    pub item: String, // between items
    pub key: String,  // after a key
    pub ensure_ascii: bool,
    pub sort_keys: bool,
}

impl Style {
    /// Python's defaults: with an indent, no space stands at the end of a line.
    pub fn new(indent: Option<String>) -> Self {
        let item = if indent.is_some() { "," } else { ", " };
        Style { indent, item: item.into(), key: ": ".into(), ensure_ascii: false, sort_keys: false }
    }
}

/// `json.dumps(value)` in a style.
pub fn dumps(value: &Value, style: &Style) -> String {
    dumps_until(value, style, usize::MAX)
}

/// As `dumps`, but no further value is written after so many bytes.
pub fn dumps_until(value: &Value, style: &Style, most: usize) -> String {
    let mut w = Writer { out: String::new(), style, most };
    w.value(value, 0);
    w.out
}

struct Writer<'a> {
    out: String,
    style: &'a Style,
    most: usize,
}

impl Writer<'_> {
    fn value(&mut self, v: &Value, depth: usize) {
        if self.out.len() > self.most {
            return;
        }
        match v {
            Value::Null => self.out.push_str("null"),
            Value::Bool(b) => self.out.push_str(if *b { "true" } else { "false" }),
            Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
                (Some(i), _, _) => write!(self.out, "{i}").unwrap(),
                (_, Some(u), _) => write!(self.out, "{u}").unwrap(),
                (_, _, Some(f)) => self.out.push_str(&float_repr(f)),
                _ => self.out.push_str(&n.to_string()),
            },
            Value::String(s) => self.string(s),
            Value::Array(items) => {
                self.sequence('[', ']', items.iter(), depth, |w, item, d| w.value(item, d))
            }
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.style.sort_keys {
                    entries.sort_by(|a, b| a.0.cmp(b.0));
                }
                self.sequence('{', '}', entries.into_iter(), depth, |w, (k, item), d| {
                    w.string(k);
                    let key = &w.style.key;
                    w.out.push_str(key);
                    w.value(item, d);
                })
            }
        }
    }

    fn sequence<T>(
        &mut self,
        open: char,
        close: char,
        items: impl Iterator<Item = T>,
        depth: usize,
        write_item: impl Fn(&mut Self, T, usize),
    ) {
        self.out.push(open);
        let mut empty = true;
        for item in items {
            if self.out.len() > self.most {
                break;
            }
            if !empty {
                self.out.push_str(&self.style.item);
            }
            self.newline(depth + 1);
            write_item(self, item, depth + 1);
            empty = false;
        }
        if !empty {
            self.newline(depth);
        }
        self.out.push(close);
    }

    fn newline(&mut self, depth: usize) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, s: &str) {
        self.out.push('"');
        for c in s.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 => write!(self.out, "\\u{:04x}", c as u32).unwrap(),
                c if self.style.ensure_ascii && (c as u32) > 0x7e => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}").unwrap();
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Python's `repr(float)`: shortest digits that round-trip, exponent form outside 1e-4..1e16.
pub fn float_repr(f: f64) -> String {
    if f.is_nan() {
        return "NaN".into();
    }
    if f.is_infinite() {
        return if f > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    if f == 0.0 {
        return if f.is_sign_negative() { "-0.0".into() } else { "0.0".into() };
    }
    let scientific = format!("{f:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("LowerExp always has an exponent");
    let exponent: i32 = exponent.parse().expect("LowerExp prints a decimal exponent");
    if (-4..16).contains(&exponent) {
        let plain = format!("{f}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        for (f, want) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e-7, "1e-07"),
            (1e-4, "0.0001"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (-0.0, "-0.0"),
            (2.5e300, "2.5e+300"),
        ] {
            assert_eq!(float_repr(f), want);
        }
    }

    #[test]
    fn separators_and_escapes_are_pythons() {
        let v: Value = serde_json::from_str(r#"{"b":[1,2.0,{}],"a":"é\n\"\u0001"}"#).unwrap();
        assert_eq!(
            dumps(&v, &Style::new(None)),
            "{\"b\": [1, 2.0, {}], \"a\": \"é\\n\\\"\\u0001\"}"
        );
        assert_eq!(
            dumps(&v, &Style { ensure_ascii: true, sort_keys: true, ..Style::new(None) }),
            "{\"a\": \"\\u00e9\\n\\\"\\u0001\", \"b\": [1, 2.0, {}]}"
        );
        assert_eq!(dumps(&v["b"], &Style::new(Some("  ".into()))), "[\n  1,\n  2.0,\n  {}\n]");
    }
}
