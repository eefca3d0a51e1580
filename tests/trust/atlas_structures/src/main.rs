//! The structures of an Atlas manifest, declared as in version 0.1 of atlas-c2pa-lib: reads one in JSON, and writes its
//! claim without the signature in CBOR, which is what Atlas signs.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{stdin, stdout, Write};

#[derive(Serialize, Deserialize)]
struct Manifest {
    claim_generator: String,
    title: String,
    instance_id: String,
    ingredients: Vec<Ingredient>,
    claim: Claim,
    created_at: String,
    cross_references: Vec<Value>,
    #[serde(rename = "c2pa.claim.v2")]
    claim_v2: Option<Claim>,
    is_active: bool,
}

#[derive(Serialize, Deserialize)]
struct Claim {
    instance_id: String,
    created_assertions: Vec<Assertion>,
    ingredients: Vec<Ingredient>,
    signature: Option<String>,
    claim_generator_info: String,
    created_at: String,
}

#[derive(Serialize, Deserialize)]
struct Ingredient {
    title: String,
    relationship: String,
    #[serde(rename = "dc:format")]
    format: String,
    document_id: String,
    instance_id: String,
    data: IngredientData,
    linked_ingredient: Option<LinkedIngredient>,
}

#[derive(Serialize, Deserialize)]
struct IngredientData {
    url: String,
    alg: String,
    hash: String,
    data_types: Vec<AssetType>,
    linked_ingredient_url: Option<String>,
    linked_ingredient_hash: Option<String>,
}

#[derive(Serialize, Deserialize)]
enum AssetType {
    #[serde(rename = "c2pa.types.model")]
    Model,
}

#[derive(Serialize, Deserialize)]
struct LinkedIngredient {
    url: String,
    hash: String,
    media_type: String,
}

#[derive(Serialize, Deserialize)]
enum Assertion {
    Action { actions: Vec<Action> },
    CreativeWork(CreativeWork),
    CustomAssertion(CustomAssertion),
}

#[derive(Serialize, Deserialize)]
struct Action {
    action: String,
    software_agent: Option<String>,
    parameters: Option<Value>,
    digital_source_type: Option<String>,
    instance_id: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct CreativeWork {
    #[serde(rename = "@context")]
    context: String,
    #[serde(rename = "@type")]
    creative_type: String,
    author: Vec<Author>,
}

#[derive(Serialize, Deserialize)]
struct Author {
    #[serde(rename = "@type")]
    author_type: String,
    name: String,
}

#[derive(Serialize, Deserialize)]
struct CustomAssertion {
    label: String,
    data: Value,
}

fn main() {
    let mut manifest: Manifest = serde_json::from_reader(stdin()).expect("an Atlas manifest");
    manifest.claim.signature = None;
    stdout().write_all(&serde_cbor::to_vec(&manifest.claim).expect("CBOR")).expect("standard output");
}
