//! The process in which model-written SQL runs. It reads requests from stdin, writes replies to stdout, and ends when
//! stdin does.

use std::io::{self, BufRead, Write};

use super::confine::confine;
use super::database::open_read_only;
use super::execute::execute;
use super::protocol::{Query, Reply, Side, Work};
use super::row_judge::RowJudge;
use super::tokens::first_statement;
use crate::error::EvalError;

/// What a program does that is started by a [`Sandbox`](super::Sandbox): gives up most of what a process may do, then
/// judges rows until stdin ends. Nothing else may run in the process.
///
/// # Errors
/// When the process cannot be confined, and when stdin or stdout fails or says something else than requests.
pub fn run_worker() -> io::Result<()> {
    let (input, mut output) = (io::stdin().lock(), io::stdout().lock());
    if let Err(error) = confine() {
        let reason = error.to_string();
        return send(&mut output, &Reply::Unconfined { reason });
    }
    serve(input, output)
}

/// Judges the rows of `input` until it ends.
pub(super) fn serve(input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    send(&mut output, &Reply::Ready)?;
    let mut judge = RowJudge::default();
    for line in input.lines() {
        let work: Work = serde_json::from_str(&line?)?;
        let mut sent = Ok(());
        let on_query = &mut |side: Side| {
            if sent.is_ok() {
                sent = send(&mut output, &Reply::Running(side));
            }
        };
        let done = match &work {
            Work::Judge(request) => judge.judge(request, on_query).map(Reply::Judged),
            Work::Query(query) => run(query),
        };
        let reply = match done {
            Ok(reply) => reply,
            Err(EvalError::OpenDatabase { path, source }) => Reply::Unusable {
                path,
                reason: source.to_string(),
            },
            Err(error) => return Err(io::Error::other(error)),
        };
        sent?;
        send(&mut output, &reply)?;
    }
    Ok(())
}

/// Runs the first statement of a text as it stands.
fn run(query: &Query) -> Result<Reply, EvalError> {
    let connection = open_read_only(&query.database)?;
    let result = execute(&connection, &first_statement(&query.sql), &query.limits);
    let result = result.map(|table| table.preview());
    Ok(Reply::Returned(result.map_err(|error| error.to_string())))
}

/// Writes a line at once, so that a crash in the next moment does not swallow it.
fn send(output: &mut impl Write, reply: &Reply) -> io::Result<()> {
    let line = serde_json::to_string(reply)? + "\n";
    output.write_all(line.as_bytes())?;
    output.flush()
}
