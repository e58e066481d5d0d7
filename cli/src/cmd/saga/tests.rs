//! Sagas against a hub that shows what a test wants.
