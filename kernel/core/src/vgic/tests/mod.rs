//! Tests of the vGIC on a fake core.
