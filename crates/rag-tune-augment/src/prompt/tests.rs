//! The prompts of the built-in tasks, byte for byte: an adapter is only as good as prompts equal to the ones it
//! was trained on.

use super::*;
use serde_json::{Value, json};

fn row_of(fields: Value) -> Row {
    let Value::Object(fields) = fields else {
        panic!("{fields} is no object")
    };
    Row { index: 7, fields }
}

fn row(index: usize, question: &str, context: &str, answer: &str) -> Row {
    let fields = json!({"db_id": "d", "context": context, "question": question, "answer": answer});
    Row {
        index,
        ..row_of(fields)
    }
}

fn render(examples: &[&Row]) -> Prompt {
    let template = PromptTemplate::new(&Task::sql()).unwrap();
    let query = row(
        0,
        "How many heads are older than 56 ?",
        "CREATE TABLE head (age INTEGER)",
        "SELECT count(*) FROM head WHERE age  >  56",
    );
    template.render(&query, examples).unwrap()
}

fn singers() -> Row {
    row(
        1,
        "How many singers do we have?",
        "CREATE TABLE singer (Id VARCHAR)",
        "SELECT count(*) FROM singer",
    )
}

fn pets() -> Row {
    row(
        2,
        "Which pets weigh < 3 & are \"old\"?",
        "CREATE TABLE pets (name VARCHAR, weight INTEGER)",
        "SELECT name FROM pets WHERE weight < 3",
    )
}

const INTRODUCTION: &str = "You are a powerful text-to-SQL model. Your job is to answer questions about a database. You are given a question and context regarding one or more tables. You must output the SQL query that answers the question.\n";

const QUERY: &str = "
Please generate the SQL query that answers the following:
### Input:
How many heads are older than 56 ?

### Context:
CREATE TABLE head (age INTEGER)

### Response:";

#[test]
fn without_examples() {
    assert_eq!(
        render(&[]).inference_prompt,
        format!("{INTRODUCTION}{QUERY}")
    );
}

#[test]
fn with_one_example() {
    let examples = "
Given the following example:
### Input:
How many singers do we have?

### Context:
CREATE TABLE singer (Id VARCHAR)

### Response:
SELECT count(*) FROM singer
";
    assert_eq!(
        render(&[&singers()]).inference_prompt,
        format!("{INTRODUCTION}{examples}{QUERY}")
    );
}

#[test]
fn with_two_examples() {
    let examples = "
Given the following examples:
Example 1:
### Input:
Which pets weigh < 3 & are \"old\"?

### Context:
CREATE TABLE pets (name VARCHAR, weight INTEGER)

### Response:
SELECT name FROM pets WHERE weight < 3

Example 2:
### Input:
How many singers do we have?

### Context:
CREATE TABLE singer (Id VARCHAR)

### Response:
SELECT count(*) FROM singer
";
    assert_eq!(
        render(&[&pets(), &singers()]).inference_prompt,
        format!("{INTRODUCTION}{examples}{QUERY}")
    );
}

#[test]
fn the_full_prompt_ends_with_the_answer_on_its_own_line() {
    let prompt = render(&[&singers()]);
    let expected = format!(
        "{}\nSELECT count(*) FROM head WHERE age  >  56",
        prompt.inference_prompt
    );
    assert_eq!(prompt.full_prompt, expected);
}

/// Field text is inserted once: what looks like a tag in the data stays as it is.
#[test]
fn data_is_never_taken_for_a_template() {
    let odd = row(3, "{{ row }} {% if %}\n", "c", "a");
    assert!(
        render(&[&odd])
            .inference_prompt
            .contains("{{ row }} {% if %}\n")
    );
}

fn gsm8k(examples: &[&Row]) -> Prompt {
    let query = row_of(json!({
        "question": "A robe takes 2 bolts.  How many do 3 take?",
        "answer": "They take 2*3=<<2*3=6>>6 bolts\n#### 6",
    }));
    let template = PromptTemplate::new(&Task::gsm8k()).unwrap();
    template.render(&query, examples).unwrap()
}

fn clips() -> Row {
    row_of(json!({
        "question": "Natalia sold 48 clips in April & half as many in May. How many?",
        "answer": "In May she sold 48/2 = <<48/2=24>>24.\nThat makes 48+24 = <<48+24=72>>72.\n#### 72",
    }))
}

fn wage() -> Row {
    row_of(json!({
        "question": "Weng earns $12 an hour. What does she earn in 50 minutes?",
        "answer": "She earns 12/60*50 = $<<12/60*50=10>>10.\n#### 10",
    }))
}

const GSM8K_END: &str = "\
Solve the following math problem step by step, one step on each line. Write every calculation between double angle \
brackets, with its result inside and again behind them, as in 48 + 24 = <<48+24=72>>72. End with a line that holds \
four number signs and the final answer as a plain number, as in:
#### 72

Problem:
A robe takes 2 bolts.  How many do 3 take?

Answer:";

#[test]
fn gsm8k_without_examples() {
    let prompt = gsm8k(&[]);
    assert_eq!(prompt.inference_prompt, GSM8K_END);
    assert_eq!(
        prompt.full_prompt,
        format!("{GSM8K_END}\nThey take 2*3=<<2*3=6>>6 bolts\n#### 6")
    );
}

#[test]
fn gsm8k_with_one_example_before_the_instruction() {
    let start = "\
Given the following example:
Problem:
Natalia sold 48 clips in April & half as many in May. How many?

Answer:
In May she sold 48/2 = <<48/2=24>>24.
That makes 48+24 = <<48+24=72>>72.
#### 72

";
    assert_eq!(
        gsm8k(&[&clips()]).inference_prompt,
        format!("{start}{GSM8K_END}")
    );
}

#[test]
fn gsm8k_with_two_examples_before_the_instruction() {
    let start = "\
Given the following examples:
Example 1:
Problem:
Weng earns $12 an hour. What does she earn in 50 minutes?

Answer:
She earns 12/60*50 = $<<12/60*50=10>>10.
#### 10

Example 2:
Problem:
Natalia sold 48 clips in April & half as many in May. How many?

Answer:
In May she sold 48/2 = <<48/2=24>>24.
That makes 48+24 = <<48+24=72>>72.
#### 72

";
    assert_eq!(
        gsm8k(&[&wage(), &clips()]).inference_prompt,
        format!("{start}{GSM8K_END}")
    );
}

fn functional(examples: &[&Row]) -> Prompt {
    let query = row_of(json!({
        "target": "Do you like Metro 2033?",
        "meaning_representation": "suggest(name[Metro 2033])",
        "references": ["Do you like Metro 2033?"],
    }));
    let template = PromptTemplate::new(&Task::functional()).unwrap();
    template.render(&query, examples).unwrap()
}

fn driver() -> Row {
    row_of(json!({
        "target": "Driver is a \"third person\" driving simulator.",
        "meaning_representation": "inform(name[Driver], genres[driving/racing, simulation], player_perspective[third person])",
    }))
}

fn developer() -> Row {
    row_of(json!({
        "target": "Which developer do you like most?",
        "meaning_representation": "request_attribute(developer[])",
    }))
}

const FUNCTIONAL_START: &str = "\
Your job is to write the meaning representation of a sentence from a conversation about video games: one function with \
attributes, where each attribute has its values in square brackets, as in function(attribute[value], attribute[value, \
value]).

The function says what the sentence does. It must be one of: inform, request, give_opinion, confirm, verify_attribute, \
suggest, request_explanation, recommend, request_attribute.

The attributes say what the sentence is about. They must be from this list, and in its order: name, exp_release_date, \
release_year, developer, esrb, rating, genres, player_perspective, has_multiplayer, platforms, available_on_steam, \
has_linux_release, has_mac_release, specifier. The brackets stay empty where the sentence asks for a value.

";

const FUNCTIONAL_END: &str = "\
Please write the meaning representation of the following:
### Target sentence:
Do you like Metro 2033?

### Meaning representation:";

#[test]
fn functional_without_examples() {
    let prompt = functional(&[]);
    let expected = format!("{FUNCTIONAL_START}{FUNCTIONAL_END}");
    assert_eq!(prompt.inference_prompt, expected);
    assert_eq!(
        prompt.full_prompt,
        format!("{expected}\nsuggest(name[Metro 2033])")
    );
}

#[test]
fn functional_numbers_even_a_single_example() {
    let examples = "\
Given the following example:
Example 1:
### Target sentence:
Which developer do you like most?

### Meaning representation:
request_attribute(developer[])

";
    assert_eq!(
        functional(&[&developer()]).inference_prompt,
        format!("{FUNCTIONAL_START}{examples}{FUNCTIONAL_END}")
    );
}

#[test]
fn functional_with_two_examples() {
    let examples = "\
Given the following examples:
Example 1:
### Target sentence:
Driver is a \"third person\" driving simulator.

### Meaning representation:
inform(name[Driver], genres[driving/racing, simulation], player_perspective[third person])

Example 2:
### Target sentence:
Which developer do you like most?

### Meaning representation:
request_attribute(developer[])

";
    assert_eq!(
        functional(&[&driver(), &developer()]).inference_prompt,
        format!("{FUNCTIONAL_START}{examples}{FUNCTIONAL_END}")
    );
}

/// The SQL task with another query template.
fn with_query(query: &str) -> Task {
    let mut task = Task::sql();
    task.templates.query = query.into();
    task
}

#[test]
fn lists_numbers_and_filters_work_in_templates() {
    let task = with_query(
        "{% for tag in row.tags %}
[{{ tag | upper }}]
{% endfor %}
{% if row.priority > 2 %}
urgent
{% endif %}
{{ row.customer.name }}: {{ row.question }}",
    );
    let row = row_of(json!({
        "question": "q", "answer": "a", "tags": ["x", "y"], "priority": 3, "customer": {"name": "Ann"},
    }));
    let prompt = PromptTemplate::new(&task)
        .unwrap()
        .render(&row, &[])
        .unwrap();
    let expected = "[X]\n[Y]\nurgent\nAnn: q";
    assert!(
        prompt.inference_prompt.ends_with(expected),
        "{}",
        prompt.inference_prompt
    );
}

/// The check of a task knows templates by the names in them; these have no `row.answer`.
#[test]
fn no_query_template_shows_the_answer() {
    for query in [
        "{{ row['answer'] }}",
        "{% set r = row %}{{ r.answer }}",
        "{% for name, value in row | items %}{{ value }}{% endfor %}",
        "{{ row }}",
        "{{ debug() }}",
    ] {
        let template = PromptTemplate::new(&with_query(query)).unwrap();
        let row = row_of(json!({"question": "q", "answer": "a secret", "context": "c"}));
        if let Ok(prompt) = template.render(&row, &[]) {
            assert!(!prompt.inference_prompt.contains("a secret"), "{query}");
        }
    }
}

#[test]
fn what_a_row_lacks_is_an_error_with_template_line_and_row() {
    let template = PromptTemplate::new(&with_query("One\n{{ row.missing }}")).unwrap();
    let error = template
        .render(&row_of(json!({"answer": "a"})), &[])
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("`templates.query`, line 2, for row 7: undefined value"),
        "{error}"
    );
    assert!(error.hint().is_some());
}

#[test]
fn a_text_of_megabytes_goes_through_as_it_is() {
    let long = "{{ 1 }} <é>\n".repeat(400_000);
    let query = row_of(json!({"question": long, "answer": long}));
    let template = PromptTemplate::new(&Task::gsm8k()).unwrap();
    let prompt = template.render(&query, &[&query]).unwrap();
    assert_eq!(prompt.full_prompt.matches(&long).count(), 4);
}
