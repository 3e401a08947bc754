//! Python's `str.format`.

use crate::bounds;
use crate::pytext::{python_float, repr, str, type_name};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// The widest field; a wider one would only fill the memory.
const MAX_WIDTH: usize = 1 << 20;

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// `format.format(*args)`; named arguments come last, as minijinja gives them.
pub fn format(format: &str, args: &[Value]) -> Result<String, Error> {
    let (args, kwargs): (&[Value], Kwargs) = minijinja::value::from_args(args)?;
    let mut fields = Fields { args, kwargs: &kwargs, next: 0 };
    fields.fill(format, 2)
}

struct Fields<'a> {
    args: &'a [Value],
    kwargs: &'a Kwargs,
    next: usize, // the index of the next field without one
}

impl Fields<'_> {
    /// Fields may be in the specifications of others, two levels deep.
    fn fill(&mut self, format: &str, levels: usize) -> Result<String, Error> {
        let mut out = String::new();
        let mut rest = format;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let mark = &rest[at..at + 1];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(mark) {
                out.push_str(mark);
                rest = after;
                continue;
            }
            if mark == "}" {
                return Err(bad("Single '}' encountered in format string"));
            }
            let mut depth = 1;
            let end = rest.find(|c| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                depth == 0
            });
            let end = end.ok_or_else(|| bad("expected '}' before end of string"))?;
            let field = &rest[..end];
            rest = &rest[end + 1..];
            if levels == 0 {
                return Err(bad("Max string recursion exceeded"));
            }
            let (head, spec) = field.split_once(':').unwrap_or((field, ""));
            let (name, conversion) = head.split_once('!').unwrap_or((head, ""));
            let value = self.value(name)?;
            let value = match conversion {
                "" => value,
                "s" => Value::from(str(&value)),
                "r" => Value::from(repr(&value)),
                other => return Err(bad(format!("Unknown conversion specifier '{other}'"))),
            };
            let spec = self.fill(spec, levels - 1)?;
            let text = apply(&value, &spec)?;
            bounds::grow(out.len(), text.len())?;
            out.push_str(&text);
        }
        out.push_str(rest);
        Ok(out)
    }

    /// `0`, `name`, `0[key]`, `name.attribute`, or nothing for the next one.
    fn value(&mut self, name: &str) -> Result<Value, Error> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut path) = name.split_at(end);
        let by_index = |i: usize| self.args.get(i).cloned().ok_or_else(|| bad("Replacement index out of range for positional args tuple"));
        let mut value = match first {
            "" => {
                self.next += 1;
                by_index(self.next - 1)?
            }
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => by_index(digits.parse().unwrap_or(usize::MAX))?,
            name => self.kwargs.get::<Option<Value>>(name)?.ok_or_else(|| bad(format!("KeyError: '{name}'")))?,
        };
        while !path.is_empty() {
            let key;
            if let Some(rest) = path.strip_prefix('[') {
                let (inside, after) = rest.split_once(']').ok_or_else(|| bad("Missing ']' in format string"))?;
                (key, path) = (inside.parse::<i64>().map_or_else(|_| Value::from(inside), Value::from), after);
            } else {
                let rest = &path[1..];
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                (key, path) = (Value::from(&rest[..end]), &rest[end..]);
            }
            value = value.get_item(&key)?;
            if value.is_undefined() {
                return Err(bad(format!("KeyError: {}", repr(&key))));
            }
        }
        Ok(value)
    }
}

/// `format(value, spec)`.
fn apply(v: &Value, spec: &str) -> Result<String, Error> {
    if spec.is_empty() {
        return Ok(str(v));
    }
    let mut chars = spec.chars().peekable();
    let (mut fill, mut align) = (' ', None);
    let mut ahead = spec.chars();
    let (first, second) = (ahead.next(), ahead.next());
    let is_align = |c: Option<char>| c.is_some_and(|c| "<>^=".contains(c));
    if is_align(second) {
        (fill, align) = (first.unwrap_or(' '), second);
        chars.next();
        chars.next();
    } else if is_align(first) {
        align = first;
        chars.next();
    }
    let sign = chars.next_if(|c| "+- ".contains(*c));
    let alternate = chars.next_if_eq(&'#').is_some();
    if chars.next_if_eq(&'0').is_some() && align.is_none() {
        (fill, align) = ('0', Some('='));
    }
    let mut digits = || -> Result<Option<usize>, Error> {
        let mut text = String::new();
        while let Some(c) = chars.next_if(char::is_ascii_digit) {
            text.push(c);
        }
        match text.parse::<usize>() {
            Ok(n) if n > MAX_WIDTH => Err(bad("a width of more than a million")),
            Ok(n) => Ok(Some(n)),
            Err(_) if text.is_empty() => Ok(None),
            Err(_) => Err(bad("a width of more than a million")),
        }
    };
    let width = digits()?.unwrap_or(0);
    let rest: String = chars.clone().collect();
    let comma = rest.chars().next().filter(|c| ",_".contains(*c));
    if comma.is_some() {
        chars.next();
    }
    let mut precision = None;
    if chars.next_if_eq(&'.').is_some() {
        let mut text = String::new();
        while let Some(c) = chars.next_if(char::is_ascii_digit) {
            text.push(c);
        }
        precision = Some(text.parse::<usize>().ok().filter(|n| *n <= MAX_WIDTH).ok_or_else(|| bad("Format specifier missing precision"))?);
    }
    let kind: String = chars.collect();
    let unknown = || bad(format!("Unknown format code '{kind}' for object of type '{}'", type_name(v)));
    let is_number = matches!(v.kind(), ValueKind::Number | ValueKind::Bool);
    if !is_number {
        if v.as_str().is_none() {
            return Err(bad(format!("unsupported format string passed to {}.__format__", type_name(v))));
        }
        if !matches!(&kind[..], "" | "s") || align == Some('=') && fill != '0' || sign.is_some() || comma.is_some() {
            return Err(unknown());
        }
        let text = str(v);
        let text: String = text.chars().take(precision.unwrap_or(usize::MAX)).collect();
        let align = align.filter(|c| *c != '=').unwrap_or('<');
        return Ok(pad("", &text, fill, align, width));
    }
    let whole = if v.kind() == ValueKind::Bool { Some(i128::from(v.is_true())) } else { i128::try_from(v.clone()).ok().filter(|_| v.is_integer()) };
    let real = || whole.map_or_else(|| f64::try_from(v.clone()).unwrap_or(f64::NAN), |n| n as f64);
    let prefixed = |prefix: &str, text: String| if alternate { format!("{prefix}{text}") } else { text };
    let (negative, body) = match (&kind[..], whole) {
        ("" | "d" | "n", Some(n)) => (n < 0, n.unsigned_abs().to_string()),
        ("x", Some(n)) => (n < 0, prefixed("0x", format!("{:x}", n.unsigned_abs()))),
        ("X", Some(n)) => (n < 0, prefixed("0X", format!("{:X}", n.unsigned_abs()))),
        ("o", Some(n)) => (n < 0, prefixed("0o", format!("{:o}", n.unsigned_abs()))),
        ("b", Some(n)) => (n < 0, prefixed("0b", format!("{:b}", n.unsigned_abs()))),
        ("c", Some(n)) => (false, u32::try_from(n).ok().and_then(char::from_u32).map(String::from).ok_or_else(unknown)?),
        ("f" | "F", _) => (real().is_sign_negative(), format!("{:.*}", precision.unwrap_or(6), real().abs())),
        ("%", _) => (real().is_sign_negative(), format!("{:.*}%", precision.unwrap_or(6), real().abs() * 100.0)),
        ("e" | "E" | "g" | "G", _) => {
            let text = crate::pypercent::scientific(kind.chars().next().unwrap_or('g'), real().abs(), precision.unwrap_or(6));
            (real().is_sign_negative(), text)
        }
        ("", None) if precision.is_some() => (real().is_sign_negative(), crate::pypercent::scientific('g', real().abs(), precision.unwrap_or(6))),
        ("", None) => (real().is_sign_negative(), python_float(real().abs())),
        _ => return Err(unknown()),
    };
    let body = match comma {
        Some(mark) => grouped(&body, mark),
        None => body,
    };
    let sign = match (negative, sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    Ok(pad(sign, &body, fill, align.unwrap_or('>'), width))
}

fn pad(sign: &str, body: &str, fill: char, align: char, width: usize) -> String {
    let missing = width.saturating_sub(sign.len() + body.chars().count());
    let some = |n: usize| String::from(fill).repeat(n);
    match align {
        '<' => format!("{sign}{body}{}", some(missing)),
        '^' => format!("{}{sign}{body}{}", some(missing / 2), some(missing - missing / 2)),
        '=' => format!("{sign}{}{body}", some(missing)),
        _ => format!("{}{sign}{body}", some(missing)),
    }
}

/// Digits in groups of three.
fn grouped(body: &str, mark: char) -> String {
    let end = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
    let mut out = String::new();
    for (i, c) in body[..end].chars().enumerate() {
        if i > 0 && (end - i) % 3 == 0 {
            out.push(mark);
        }
        out.push(c);
    }
    out + &body[end..]
}
