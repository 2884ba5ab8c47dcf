//! The page's tables of runs, classes and tests: plain HTML, which needs no script.

use crate::comparison::{ComparedRun, Comparison, MetricValue, PairTest};
use crate::page::escaped;

/// All tables that have something to say, each with its heading.
pub(crate) fn tables(comparison: &Comparison) -> String {
    [
        run_table(comparison),
        class_table(comparison),
        test_table(comparison),
    ]
    .concat()
}

/// A column for each run: its facts, how many rows are right, and its metrics.
fn run_table(comparison: &Comparison) -> String {
    let runs = &comparison.runs;
    let mut body = String::new();
    for name in names(runs, |run| run.facts.iter().map(|(name, _)| name)) {
        let fact = |run: &ComparedRun| {
            let fact = run.facts.iter().find(|(known, _)| known == name);
            let value = fact.map_or("-", |(_, value)| value);
            format!("<td class=\"fact\">{}</td>", escaped(value))
        };
        body += &line("", name, runs.iter().map(fact));
    }
    let correct = |run: &ComparedRun| {
        let (correct, total) = (grouped(run.correct), grouped(run.total));
        format!("<td class=\"number\">{correct} of {total}</td>")
    };
    body += &line("", "rows right", runs.iter().map(correct));
    for name in names(runs, |run| run.metrics.iter().map(|metric| &metric.name)) {
        let class = if *name == comparison.metric {
            "main"
        } else {
            ""
        };
        let cells = runs.iter().map(|run| metric_cell(&run.metrics, name));
        body += &line(class, name, cells);
    }
    table(
        "Runs",
        "Figures with their 95 % intervals",
        &head(runs),
        &body,
    )
}

/// A line for each class, a column for each run; nothing if rows have no classes.
fn class_table(comparison: &Comparison) -> String {
    let runs = &comparison.runs;
    let mut body = String::new();
    for name in names(runs, |run| run.classes.iter().map(|class| &class.name)) {
        body += &line(
            "",
            name,
            runs.iter().map(|run| metric_cell(&run.classes, name)),
        );
    }
    if body.is_empty() {
        return body;
    }
    let caption = format!("{} by class of row", words(&comparison.metric));
    table("Classes", &caption, &head(runs), &body)
}

fn test_table(comparison: &Comparison) -> String {
    if comparison.tests.is_empty() {
        return String::new();
    }
    let head = [
        "first / second",
        "only first right",
        "only second right",
        "difference",
        "p value",
        "verdict",
    ];
    let body: String = comparison.tests.iter().map(test_line).collect();
    let head = head.map(str::to_owned);
    table("Tests", &comparison.test_method, &head, &body)
}

fn test_line(test: &PairTest) -> String {
    let [low, high] = test.difference_ci95.map(points);
    let cells = [
        number(&grouped(test.only_first)),
        number(&grouped(test.only_second)),
        format!(
            "<td class=\"number\">{} points<span class=\"interval\">{low} to {high}</span></td>",
            points(test.difference)
        ),
        number(&p_value(test.p_value)),
        format!("<td>{}</td>", escaped(&test.verdict)),
    ];
    line(
        "",
        &format!("{} / {}", test.first, test.second),
        cells.into_iter(),
    )
}

fn number(text: &str) -> String {
    format!("<td class=\"number\">{text}</td>")
}

/// The names that `of` finds in any run, in the order in which they first come.
fn names<'a, I: Iterator<Item = &'a String>>(
    runs: &'a [ComparedRun],
    of: impl Fn(&'a ComparedRun) -> I,
) -> Vec<&'a String> {
    let mut names = Vec::new();
    for name in runs.iter().flat_map(of) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Names in the first column, then a column for each run.
fn head(runs: &[ComparedRun]) -> Vec<String> {
    let labels = runs.iter().map(|run| run.label.clone());
    [String::new()].into_iter().chain(labels).collect()
}

fn metric_cell(metrics: &[MetricValue], name: &str) -> String {
    let metric = metrics.iter().find(|metric| metric.name == name);
    match metric.and_then(|metric| Some((metric.value?, metric.ci95))) {
        None => number("-"),
        Some((value, ci95)) => {
            let [low, high] = ci95.map(percent);
            format!(
                "<td class=\"number\">{}<span class=\"interval\">{low} to {high}</span></td>",
                percent(value)
            )
        }
    }
}

/// A line with its name at the left.
fn line(class: &str, name: &str, cells: impl Iterator<Item = String>) -> String {
    let class = if class.is_empty() {
        String::new()
    } else {
        format!(" class=\"{class}\"")
    };
    let name = escaped(&words(name));
    let cells: String = cells.collect();
    format!("<tr{class}><th scope=\"row\">{name}</th>{cells}</tr>\n")
}

/// A table that scrolls where the page is narrow, and can be reached by key for it.
fn table(heading: &str, caption: &str, head: &[String], body: &str) -> String {
    let id = heading.to_lowercase();
    let cell = |column: &String| match column.as_str() {
        "" => "<td></td>".to_owned(),
        column => format!("<th scope=\"col\">{}</th>", escaped(column)),
    };
    let head: String = head.iter().map(cell).collect();
    format!(
        "<section aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{heading}</h2>\n\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"{id}-title\">\n\
         <table id=\"{id}\"><caption>{}</caption>\n<thead><tr>{head}</tr></thead>\n\
         <tbody>\n{body}</tbody></table>\n</div>\n</section>\n",
        escaped(caption)
    )
}

/// `execution_strict` as people write it.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn percent(share: f64) -> String {
    if share.is_finite() {
        crate::arms::percent(share)
    } else {
        "-".to_owned()
    }
}

/// A difference in percentage points, with its sign.
fn points(difference: f64) -> String {
    if difference.is_finite() {
        format!("{:+.1}", 100.0 * difference).replace('-', "\u{2212}")
    } else {
        "-".to_owned()
    }
}

fn p_value(p: f64) -> String {
    match p {
        p if !p.is_finite() => "-".to_owned(),
        p if p < 0.0001 => "&lt; 0.0001".to_owned(),
        p if p < 0.01 => format!("{p:.4}"),
        p if p < 0.1 => format!("{p:.3}"),
        p => format!("{p:.2}"),
    }
}

/// `1319` as `1,319`.
fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_read_them() {
        assert_eq!(
            [0, 999, 1319, 1_234_567].map(grouped),
            ["0", "999", "1,319", "1,234,567"]
        );
        assert_eq!([-0.0123, 0.05].map(points), ["\u{2212}1.2", "+5.0"]);
        assert_eq!(
            [0.47, 0.0012, 1e-9, f64::NAN].map(p_value),
            ["0.47", "0.0012", "&lt; 0.0001", "-"]
        );
    }

    #[test]
    fn a_metric_that_a_run_lacks_is_a_dash() {
        let metric = |name: &str, value| MetricValue {
            name: name.to_owned(),
            value,
            ci95: [0.1, 0.2],
        };
        let metrics = [metric("execution", Some(0.15)), metric("strict", None)];
        assert!(metric_cell(&metrics, "execution").contains("15.0 %"));
        assert!(metric_cell(&metrics, "execution").contains("10.0 % to 20.0 %"));
        for name in ["strict", "unknown"] {
            assert_eq!(metric_cell(&metrics, name), "<td class=\"number\">-</td>");
        }
    }

    #[test]
    fn tables_without_content_are_left_out() {
        assert!(!tables(&Comparison::default()).contains("Classes"));
        assert!(!tables(&Comparison::default()).contains("Tests"));
    }
}
