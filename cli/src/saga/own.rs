//! The operator's own definitions, in YAML.
