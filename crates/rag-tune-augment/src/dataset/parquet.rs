//! Parquet: read row by row, each thread a stretch of row groups, and laid out as JSON lines.
//!
//! Nested values become JSON arrays and objects, dates and times texts. Binary columns become text where
//! they are UTF-8 (some writers do not say that a column is text), and base64 where not.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::ColumnDescriptor;
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::columns::Needs;
use super::part::{Built, PartBuilder};
use super::place::{Unit, shortened};
use super::spool::{JsonRows, Spool};
use super::{BadRows, DataError, Place};
use crate::AugmentError;

/// Written at once.
const BATCH_BYTES: usize = 1 << 20;

pub(super) fn read(
    path: &Path,
    needs: &Needs,
    bad_rows: BadRows,
) -> Result<Vec<Built>, AugmentError> {
    let open = || -> Result<_, AugmentError> {
        // Opened each time: handles that are cloned share one position, and threads would move it.
        let file = File::open(path).map_err(AugmentError::read(path))?;
        let reader = SerializedFileReader::new(file);
        Ok(reader.map_err(|error| damaged(path, Place::Schema, &error))?)
    };
    let reader = open()?;
    check_schema(path, &reader, needs)?;
    let groups = reader.metadata().row_groups();
    let rows: Vec<usize> = groups
        .iter()
        .map(|group| group.num_rows().max(0) as usize)
        .collect();
    let stretches = stretches(&rows, rayon::current_num_threads());
    let read = |stretch: Range<usize>| {
        let first_row = rows[..stretch.start].iter().sum();
        let builder = PartBuilder::new(path, Unit::Row, needs, bad_rows);
        read_groups(&open()?, stretch, first_row, builder)
    };
    stretches.into_par_iter().map(read).collect()
}

/// Row groups that follow each other, about as many rows to each thread.
fn stretches(rows: &[usize], threads: usize) -> Vec<Range<usize>> {
    let share = rows.iter().sum::<usize>().div_ceil(threads.max(1));
    let (mut stretches, mut start, mut held) = (Vec::new(), 0, 0);
    for (group, rows) in rows.iter().enumerate() {
        held += rows;
        if held >= share {
            stretches.push(start..group + 1);
            (start, held) = (group + 1, 0);
        }
    }
    if start < rows.len() {
        stretches.push(start..rows.len());
    }
    stretches
}

fn read_groups(
    reader: &SerializedFileReader<File>,
    groups: Range<usize>,
    first_row: usize,
    builder: PartBuilder<'_>,
) -> Result<Built, AugmentError> {
    let (path, needs) = (builder.path(), builder.needs());
    let mut spool = Spool::new(builder)?;
    let mut number = first_row;
    for group in groups {
        let at = |number| move |error: ParquetError| damaged(path, Place::Row(number), &error);
        let group = reader.get_row_group(group).map_err(at(number))?;
        let declared = number + group.metadata().num_rows().max(0) as usize;
        let mut rows = JsonRows::default();
        for row in group.get_row_iter(None).map_err(at(number))? {
            let fields = json_fields(&row.map_err(at(number))?);
            rows.push(number, |text| {
                serde_json::to_writer(text, &fields).expect("memory can be written");
                needs.met_by_fields(&fields)
            });
            number += 1;
            if rows.bytes() > BATCH_BYTES {
                spool.append(std::mem::take(&mut rows))?;
            }
        }
        spool.append(rows)?;
        if number != declared {
            let problem = format!("the row group ends, where {declared} rows were declared");
            return Err(spool.builder().damaged(number, problem).into());
        }
    }
    Ok(spool.finish()?)
}

fn json_fields(row: &Row) -> Map<String, Value> {
    let value = |field: &Field| match field {
        Field::Bytes(bytes) => match bytes.as_utf8() {
            Ok(text) => Value::String(text.into()),
            Err(_) => field.to_json_value(),
        },
        field => field.to_json_value(),
    };
    row.get_column_iter()
        .map(|(name, field)| (name.clone(), value(field)))
        .collect()
}

fn check_schema(
    path: &Path,
    reader: &SerializedFileReader<File>,
    needs: &Needs,
) -> Result<(), DataError> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let fields = schema.root_schema().get_fields();
    let names: Vec<String> = fields.iter().map(|field| field.name().into()).collect();
    needs.check_declared(path, Place::Schema, &names)?;
    match schema.columns().iter().find(|column| !is_readable(column)) {
        None => Ok(()),
        Some(column) => Err(DataError::Damaged {
            path: path.into(),
            place: Place::Schema,
            problem: format!(
                "column `{}` is {} {}, which cannot be read",
                column.path(),
                column.physical_type(),
                column.converted_type()
            ),
        }),
    }
}

/// The pairs that the `parquet` crate's rows know (`Field::convert_*`); others make it panic.
fn is_readable(column: &ColumnDescriptor) -> bool {
    use ConvertedType as As;
    let converted = column.converted_type();
    match column.physical_type() {
        Physical::BOOLEAN | Physical::INT96 | Physical::FLOAT | Physical::DOUBLE => true,
        Physical::INT32 => matches!(
            converted,
            As::NONE
                | As::INT_8
                | As::INT_16
                | As::INT_32
                | As::UINT_8
                | As::UINT_16
                | As::UINT_32
                | As::DATE
                | As::TIME_MILLIS
                | As::DECIMAL
        ),
        Physical::INT64 => matches!(
            converted,
            As::NONE
                | As::INT_64
                | As::UINT_64
                | As::TIME_MICROS
                | As::TIMESTAMP_MILLIS
                | As::TIMESTAMP_MICROS
                | As::DECIMAL
        ),
        Physical::BYTE_ARRAY => matches!(
            converted,
            As::NONE | As::UTF8 | As::ENUM | As::JSON | As::BSON | As::DECIMAL
        ),
        Physical::FIXED_LEN_BYTE_ARRAY => {
            let half = column.logical_type_ref() == Some(&LogicalType::Float16);
            half || matches!(converted, As::NONE | As::DECIMAL)
        }
    }
}

fn damaged(path: &Path, place: Place, error: &ParquetError) -> DataError {
    DataError::Damaged {
        path: path.into(),
        place,
        problem: shortened(&error.to_string()),
    }
}
