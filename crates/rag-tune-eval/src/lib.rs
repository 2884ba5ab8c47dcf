//! Scorers and statistics: SQL execution accuracy with confidence intervals.
