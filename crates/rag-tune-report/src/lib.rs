//! Run files in, charts and tables out; never runs a model.
