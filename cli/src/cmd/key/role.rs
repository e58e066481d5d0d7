//! `key ls|add|renew|threshold|role`: who may sign what.

use clap::{Args, Subcommand};
use moorline_common::op::Class;
use moorline_common::trust::OPERATOR_ROLE;

use super::edit::{self, KeyName, RoleChange};
use super::narrow::{self, NarrowArgs};
use super::next::{self, RootArgs};
use crate::cmd::Env;
use crate::cmd::init::parse_operator;
use crate::error::Failure;
use crate::render::Ui;

/// Arguments of `key add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The operator's name and the key that `moorctl key new` printed there
    #[arg(value_name = "NAME=PUBKEYHEX", value_parser = parse_operator)]
    operator: (String, [u8; 32]),
    /// The role that it gets; `root` makes it another recovery key
    #[arg(long, default_value = OPERATOR_ROLE, value_name = "ROLE")]
    role: String,
    /// How to sign it
    #[command(flatten)]
    root: RootArgs,
}

/// Arguments of `key renew`.
#[derive(Debug, Args)]
pub struct RenewArgs {
    /// How to sign it
    #[command(flatten)]
    root: RootArgs,
}

/// Arguments of `key threshold`.
#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub struct ThresholdArgs {
    /// The role, such as `operator` or `root`
    #[arg(required_unless_present = "class", conflicts_with = "class")]
    role: Option<String>,
    /// How many distinct keys must sign
    #[arg(value_name = "N", value_parser = parse_threshold)]
    threshold: u32,
    /// A class of operation instead of a role: R0, R1, R2, R3, R4 or P
    #[arg(long, value_name = "CLASS", value_parser = parse_class)]
    class: Option<Class>,
    /// How to sign it
    #[command(flatten)]
    root: NarrowArgs,
}

/// Verbs of `key role`.
#[derive(Debug, Subcommand)]
pub enum RoleVerb {
    /// Make a role, or change what is named of it
    Set(SetArgs),
    /// Take a role away; its keys keep their other roles
    Rm(RmArgs),
}

/// Arguments of `key role set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The role's name
    name: String,
    /// The keys that hold it, by name or id; NAME=PUBKEYHEX for a new one
    #[arg(long, value_name = "KEYS", value_delimiter = ',', value_parser = parse_key)]
    keys: Vec<KeyName>,
    /// How many of them must sign
    #[arg(long, value_name = "N", value_parser = parse_threshold)]
    threshold: Option<u32>,
    /// Host names that it reaches; `*` stands for any run of characters
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    hosts: Vec<String>,
    /// What it signs: slice, topology, host-binding, op, or single kinds of operation such as op.restart
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    kinds: Vec<String>,
    /// The greatest class of operation that it signs: R0, R1, R2, R3, R4 or P
    #[arg(long, value_name = "CLASS", value_parser = parse_class)]
    max_class: Option<Class>,
    /// How to sign it
    #[command(flatten)]
    root: NarrowArgs,
}

/// Arguments of `key role rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The role's name
    name: String,
    /// How to sign it
    #[command(flatten)]
    root: NarrowArgs,
}

fn parse_threshold(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("nothing would need a signature: write 1 or more".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("write how many keys must sign, such as 2".to_owned()),
    }
}

fn parse_class(text: &str) -> Result<Class, String> {
    Class::parse(text).ok_or_else(|| "write R0, R1, R2, R3, R4 or P".to_owned())
}

fn parse_key(text: &str) -> Result<KeyName, String> {
    if text.contains('=') {
        return parse_operator(text).map(|(name, public)| KeyName::New(name, public));
    }
    Ok(KeyName::Known(text.to_owned()))
}

pub(super) async fn ls(env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    ui.result(&client.root, || client.root.describe(next::when).join("\n") + "\n")?;
    Ok(0)
}

pub(super) async fn add(args: AddArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let (name, public) = args.operator;
    next::run(&client, ui, &args.root, |root| edit::add(root, name, public, &args.role)).await
}

pub(super) async fn renew(args: RenewArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    next::run(&client, ui, &args.root, |_| Ok(())).await
}

pub(super) async fn threshold(args: ThresholdArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    narrow::run(client, ui, &args.root, |root| match (args.class, &args.role) {
        (Some(class), _) => {
            edit::set_class_threshold(root, class, args.threshold);
            Ok(())
        }
        (None, Some(role)) => edit::set_threshold(root, role, args.threshold),
        (None, None) => Err(Failure::usage("neither a role nor a class is named", "for example: moorctl key threshold operator 2")),
    })
    .await
}

pub(super) async fn run(verb: RoleVerb, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    match verb {
        RoleVerb::Set(SetArgs { name, keys, threshold, hosts, kinds, max_class, root }) => {
            let change = RoleChange { keys, threshold, hosts, kinds, max_class };
            narrow::run(client, ui, &root, |next| edit::set_role(next, &name, change)).await
        }
        RoleVerb::Rm(args) => narrow::run(client, ui, &args.root, |next| edit::rm_role(next, &args.name)).await,
    }
}
