//! As much JSON as the example needs, so that it builds with `rustc` alone: a field of an object,
//! and text in quotes. A plugin of more than a page takes serde_json.

/// The text or number of a field of the outermost object, as it is written; none where it is not
/// there. Text is unescaped.
pub fn field(json: &str, name: &str) -> Option<String> {
    let mut rest = json.trim_start().strip_prefix('{')?;
    loop {
        let (key, after) = value(rest.trim_start())?;
        let (found, after) = value(after.trim_start().strip_prefix(':')?.trim_start())?;
        if key == name {
            return Some(found);
        }
        rest = after.trim_start().strip_prefix(',')?;
    }
}

/// The value at the beginning of `json`, and what comes after it.
fn value(json: &str) -> Option<(String, &str)> {
    if let Some(rest) = json.strip_prefix('"') {
        return string(rest);
    }
    let mut depth = 0;
    let mut quoted = false;
    let mut escaped = false;
    for (at, character) in json.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '{' | '[' => depth += 1,
            '}' | ']' if depth == 0 => return Some((json[..at].trim_end().into(), &json[at..])),
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => return Some((json[..at].trim_end().into(), &json[at..])),
            _ => {}
        }
    }
    None
}

fn string(json: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut characters = json.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((text, &json[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                'b' => text.push('\u{8}'),
                'f' => text.push('\u{c}'),
                'u' => {
                    let mut unit = hex(&mut characters)?;
                    if (0xd800..0xdc00).contains(&unit) {
                        characters.next().filter(|(_, c)| *c == '\\')?;
                        characters.next().filter(|(_, c)| *c == 'u')?;
                        let low = hex(&mut characters)?;
                        unit = 0x10000 + ((unit - 0xd800) << 10) + low.checked_sub(0xdc00)?;
                    }
                    text.push(char::from_u32(unit)?);
                }
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
    None
}

fn hex(characters: &mut std::str::CharIndices) -> Option<u32> {
    (0..4).try_fold(0, |unit, _| Some(unit * 16 + characters.next()?.1.to_digit(16)?))
}

/// Text as JSON, with its quotes.
pub fn quoted(text: &str) -> String {
    let mut json = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            control if control < ' ' => json.push_str(&format!("\\u{:04x}", control as u32)),
            other => json.push(other),
        }
    }
    json.push('"');
    json
}
