//! The HTML page of a [`Comparison`]: one file that needs no other, and no network.
//!
//! The template, the style and the script are files in `assets/`. Charts and tables are written here, so that they show
//! without a script; rows are data that the script shows as text.

use base64::Engine;
use sha2::{Digest, Sha256};

use crate::comparison::Comparison;
use crate::error::ReportError;
use crate::page_data;
use crate::page_tables::tables;

const TEMPLATE: &str = include_str!("../assets/report.html");
const STYLE: &str = include_str!("../assets/report.css");
const SCRIPT: &str = concat!(
    include_str!("../assets/diff.js"),
    include_str!("../assets/detail.js"),
    include_str!("../assets/report.js")
);

/// The whole page.
pub(crate) fn page(comparison: &Comparison) -> Result<String, ReportError> {
    let title = escaped(&comparison.title);
    let badge = if comparison.synthetic {
        "<strong class=\"badge\">synthetic data</strong>"
    } else {
        ""
    };
    let parts = [
        ("title", title),
        ("badge", badge.to_owned()),
        ("notes", notes(&comparison.notes)),
        ("charts", charts(comparison)?),
        ("tables", tables(comparison)),
        ("data", page_data::json(comparison)),
        ("style", STYLE.to_owned()),
        ("style_hash", hash(STYLE)),
        ("script", SCRIPT.to_owned()),
        ("script_hash", hash(SCRIPT)),
    ];
    Ok(fill(TEMPLATE, &parts))
}

/// The template with its `{{name}}`s filled, each once: what is put in is never searched for names.
fn fill(template: &str, parts: &[(&str, String)]) -> String {
    let mut pieces = template.split("{{");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").unwrap_or((piece, ""));
        let part = parts.iter().find(|(known, _)| *known == name);
        text += part.map_or("", |(_, part)| part);
        text += rest;
    }
    text
}

/// What lets exactly this text run under the page's Content-Security-Policy: markup that data might smuggle in has no
/// hash of its own, so that the browser refuses it.
fn hash(text: &str) -> String {
    let digest = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text));
    format!("sha256-{digest}")
}

/// `text` as HTML text or as the value of an attribute.
pub(crate) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html += "&amp;",
            '<' => html += "&lt;",
            '>' => html += "&gt;",
            '"' => html += "&quot;",
            '\'' => html += "&#39;",
            c => html.push(c),
        }
    }
    html
}

fn notes(notes: &[String]) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let items = notes
        .iter()
        .map(|note| format!("<li class=\"note\">{}</li>\n", escaped(note)));
    format!(
        "<ul class=\"notes\" aria-label=\"Notes\">\n{}</ul>",
        items.collect::<String>()
    )
}

fn charts(comparison: &Comparison) -> Result<String, ReportError> {
    let mut html = String::new();
    for chart in &comparison.charts {
        // Inside HTML an SVG needs no namespace; its name is for those who do not see it.
        let named = format!("<svg role=\"img\" aria-label=\"{}\"", escaped(&chart.title));
        let svg = chart.svg()?;
        let svg = svg
            .replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1)
            .replacen("<svg", &named, 1);
        html += &format!("<figure>\n{svg}</figure>\n");
    }
    if html.is_empty() {
        return Ok(html);
    }
    Ok(format!(
        "<section class=\"charts\" aria-label=\"Charts\">\n{html}</section>"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_is_not_searched_for_names() {
        let parts = [("a", "{{b}}".to_owned()), ("b", "secret".to_owned())];
        assert_eq!(fill("<{{a}}> {{b}} {{c}}.", &parts), "<{{b}}> secret .");
    }

    #[test]
    fn every_name_of_the_template_is_filled() {
        let page = page(&Comparison::default()).unwrap();
        let names = TEMPLATE
            .split("{{")
            .skip(1)
            .map(|rest| rest.split_once("}}").unwrap().0);
        for name in names {
            assert!(!page.contains(&format!("{{{{{name}}}}}")), "{name}");
        }
        for name in ["script_hash", "style_hash"] {
            assert!(TEMPLATE.contains(name));
        }
    }

    /// Expected by `printf 'alert(1)' | openssl dgst -sha256 -binary | base64`.
    #[test]
    fn hashes_are_those_of_the_policy() {
        assert_eq!(
            hash("alert(1)"),
            "sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI="
        );
    }

    #[test]
    fn markup_in_text_is_text() {
        assert_eq!(
            escaped("<img src=x onerror='a' \"&amp;\">"),
            "&lt;img src=x onerror=&#39;a&#39; &quot;&amp;amp;&quot;&gt;"
        );
    }
}
