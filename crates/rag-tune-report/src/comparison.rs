//! What a comparison of several evaluations on the same rows says: the document behind the HTML report.

use std::path::Path;

use serde_json::Value;

use crate::bar_chart::BarChart;
use crate::error::ReportError;
use crate::page::page;
use crate::save::save_text;

/// Evaluations of the same rows, side by side.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Comparison {
    /// Above everything.
    pub title: String,
    /// What a reader of the figures must know, a sentence each: within noise, made-up data, made-up databases.
    pub notes: Vec<String>,
    /// Whether the data was made up.
    pub synthetic: bool,
    /// Name of the main metric.
    pub metric: String,
    /// The evaluations, in the order in which they were named.
    pub runs: Vec<ComparedRun>,
    /// A test for each pair of evaluations, or of what they were pooled to.
    pub tests: Vec<PairTest>,
    /// A sentence above the tests: which test, and whether its p values are adjusted.
    pub test_method: String,
    /// The rows, in order.
    pub rows: Vec<ComparedRow>,
    /// Charts to show above the tables.
    pub charts: Vec<BarChart>,
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ComparedRun {
    /// What it is called in tables.
    pub label: String,
    /// Model, adapter, prompt, selector, seed: name and value, to be shown.
    pub facts: Vec<(String, String)>,
    /// Rows that are right by the main metric.
    pub correct: usize,
    /// All rows.
    pub total: usize,
    /// All metrics, the main one first.
    pub metrics: Vec<MetricValue>,
    /// The main metric by class of row, if rows have classes.
    pub classes: Vec<MetricValue>,
}

/// A figure with its interval.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetricValue {
    /// What it is of.
    pub name: String,
    /// Between 0 and 1; none where no row says anything about it.
    pub value: Option<f64>,
    /// Ends of its 95 % interval.
    pub ci95: [f64; 2],
}

/// Two evaluations of the same rows, or the pooled seeds of two.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PairTest {
    /// What the first is called.
    pub first: String,
    /// What the second is called.
    pub second: String,
    /// Rows that only the first has right.
    pub only_first: usize,
    /// Rows that only the second has right.
    pub only_second: usize,
    /// Accuracy of the second less that of the first.
    pub difference: f64,
    /// Ends of its 95 % interval.
    pub difference_ci95: [f64; 2],
    /// Two-sided, by [`Comparison::test_method`].
    pub p_value: f64,
    /// A sentence that says what follows from it.
    pub verdict: String,
}

/// A row with everybody's answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ComparedRow {
    /// The row, from 0.
    pub index: usize,
    /// The right answer.
    pub gold: String,
    /// What it returned, `{"columns": [..], "rows": [[..]], "total_rows": n}`, or null.
    pub gold_result: Value,
    /// The row's class, if rows have classes.
    pub class: Option<String>,
    /// Each run's answer, in the order of [`Comparison::runs`].
    pub answers: Vec<ComparedAnswer>,
}

/// One run's answer to a row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ComparedAnswer {
    /// What the model was asked; none if unknown.
    pub prompt: Option<String>,
    /// The train rows in the prompt: `{"row": index, "score": number}`.
    pub examples: Vec<Value>,
    /// What the model wrote.
    pub prediction: String,
    /// Right by the main metric.
    pub correct: bool,
    /// `correct`, `wrong`, `prediction_error`, `timeout` or `gold_error`.
    pub status: String,
    /// Why it is no answer, or where it goes wrong.
    pub detail: Option<String>,
    /// What the predicted query returned, in the form of [`ComparedRow::gold_result`], or null.
    pub result: Value,
    /// What the row has of each metric: name and value, the main one first.
    pub metrics: Vec<(String, Value)>,
}

impl Comparison {
    /// Writes one HTML file that needs nothing else, no network either, whole or not at all.
    ///
    /// Answers may be hostile: whatever they are, they are shown as text. The same comparison gives the same file.
    ///
    /// # Errors
    /// [`ReportError::Write`], [`ReportError::Draw`].
    pub fn save_html(&self, path: &Path) -> Result<(), ReportError> {
        save_text(path, &page(self)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bar_chart::Bar;

    const HOSTILE: &str = "</script><img src=x onerror=alert(1)><!--\u{2028} {{data}}";

    fn metric(name: &str, value: f64) -> MetricValue {
        MetricValue {
            name: name.to_owned(),
            value: Some(value),
            ci95: [value - 0.1, value + 0.1],
        }
    }

    fn sample() -> Comparison {
        let run = |label: &str, value| ComparedRun {
            label: label.to_owned(),
            facts: vec![("model".to_owned(), HOSTILE.to_owned())],
            correct: 1,
            total: 1319,
            metrics: vec![metric("execution", value), metric("exact_set_match", 0.25)],
            classes: vec![metric("easy", 0.5)],
        };
        let answer = |prediction: &str| ComparedAnswer {
            prompt: Some(HOSTILE.to_owned()),
            prediction: prediction.to_owned(),
            status: "wrong".to_owned(),
            ..ComparedAnswer::default()
        };
        Comparison {
            title: HOSTILE.to_owned(),
            notes: vec!["within noise, p = 0.47".to_owned()],
            synthetic: true,
            metric: "execution".to_owned(),
            runs: vec![run("zero-shot", 0.5), run(HOSTILE, 0.75)],
            tests: vec![PairTest {
                first: "zero-shot".to_owned(),
                second: HOSTILE.to_owned(),
                only_first: 12,
                only_second: 17,
                difference: 0.05,
                difference_ci95: [-0.05, 0.15],
                p_value: 0.47,
                verdict: "no difference beyond noise".to_owned(),
            }],
            test_method: "McNemar's exact test".to_owned(),
            rows: vec![ComparedRow {
                index: 12,
                gold: HOSTILE.to_owned(),
                gold_result: json!({"columns": ["a"], "rows": [[HOSTILE]], "total_rows": 1}),
                class: Some("easy".to_owned()),
                answers: vec![answer(HOSTILE), answer("SELECT 1")],
            }],
            charts: vec![BarChart {
                title: HOSTILE.to_owned(),
                groups: vec![HOSTILE.to_owned()],
                series: vec!["a".to_owned()],
                bars: vec![Bar {
                    group: 0,
                    series: 0,
                    value: 0.5,
                    ci95: [0.4, 0.6],
                    published: None,
                }],
                ..BarChart::default()
            }],
        }
    }

    fn html(comparison: &Comparison) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        comparison.save_html(&path).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_page_asks_for_nothing_from_elsewhere() {
        let html = html(&sample());
        for call in [
            "http://", "https://", "url(", "@import", "<link", "<img", "<iframe", "<base",
        ] {
            assert!(!html.contains(call), "{call}");
        }
        for call in [
            "fetch(",
            "XMLHttpRequest",
            "WebSocket",
            "import(",
            "innerHTML",
            "eval(",
        ] {
            assert!(!html.contains(call), "{call}");
        }
        assert!(html.contains("default-src 'none'"));
        // As text alone: the page has no element that loads anything.
        let markup = html
            .replace("&lt;img src=x", "")
            .replace("\\u003cimg src=x", "");
        assert!(!markup.contains(" src="), "{markup}");
    }

    #[test]
    fn hostile_text_ends_no_script() {
        let html = html(&sample());
        // The data and the code: one end each.
        assert_eq!(html.matches("</script>").count(), 2);
        assert_eq!(html.matches("<script").count(), 2);
        assert!(!html.contains("<!--"));
        let (_, data) = html.split_once("id=\"data\">").unwrap();
        let (data, _) = data.split_once("</script>").unwrap();
        assert!(!data.contains('\u{2028}'));
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["rows"][0]["answers"][0]["prediction"], HOSTILE);
        assert_eq!(data["runs"], json!(["zero-shot", HOSTILE]));
        let prompt = data["rows"][0]["answers"][1]["prompt"].as_u64().unwrap();
        assert_eq!(data["pool"][prompt as usize], HOSTILE);
    }

    #[test]
    fn figures_stand_in_the_page_without_a_script() {
        let html = html(&sample());
        for text in [
            "<th scope=\"col\">zero-shot</th>",
            "<th scope=\"row\">exact set match</th>",
            "1 of 1,319",
            "75.0 %<span class=\"interval\">65.0 % to 85.0 %</span>",
            "execution by class of row",
            "+5.0 points",
            "0.47",
            "no difference beyond noise",
            "within noise, p = 0.47",
            "McNemar&#39;s exact test",
            "synthetic data",
            "<noscript>",
            "<svg role=\"img\"",
        ] {
            assert!(html.contains(text), "{text}");
        }
    }

    #[test]
    fn the_same_comparison_gives_the_same_file() {
        assert_eq!(html(&sample()), html(&sample()));
    }

    #[test]
    fn an_empty_comparison_is_a_page() {
        let html = html(&Comparison::default());
        assert!(html.ends_with("</html>\n"));
        assert!(!html.contains("synthetic data"));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = sample()
            .save_html(&folder.path().join("no/report.html"))
            .unwrap_err();
        assert!(error.to_string().contains("report.html"), "{error}");
    }
}
