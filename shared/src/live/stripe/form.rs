//! Stripe's forms: nested values as `a[b][0][c]=…`.

use serde_json::Value;

/// The pairs of a form, in order. What is null is left out; an empty text is sent, since with Stripe it clears.
pub(super) fn pairs(value: &Value) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    if let Value::Object(fields) = value {
        for (name, value) in fields {
            flatten(name.clone(), value, &mut pairs);
        }
    }
    pairs
}

/// The same as text.
pub(super) fn encoded(value: &Value) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs(value)).finish()
}

fn flatten(name: String, value: &Value, pairs: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Bool(flag) => pairs.push((name, flag.to_string())),
        Value::Number(number) => pairs.push((name, number.to_string())),
        Value::String(text) => pairs.push((name, text.clone())),
        Value::Array(values) => {
            for (at, value) in values.iter().enumerate() {
                flatten(format!("{name}[{at}]"), value, pairs);
            }
        }
        Value::Object(fields) => {
            for (field, value) in fields {
                flatten(format!("{name}[{field}]"), value, pairs);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_values_are_named_by_their_way_in() {
        let form = json!({
            "mode": "payment", "created": { "gte": 5 }, "none": null, "clears": "", "flag": false,
            "line_items": [{ "price_data": { "currency": "usd" }, "quantity": 1 }, { "price": "price_1" }],
        });
        let text: Vec<_> = pairs(&form).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut sorted = text.clone();
        sorted.sort();
        assert_eq!(
            sorted,
            [
                "clears=",
                "created[gte]=5",
                "flag=false",
                "line_items[0][price_data][currency]=usd",
                "line_items[0][quantity]=1",
                "line_items[1][price]=price_1",
                "mode=payment",
            ]
        );
        assert_eq!(encoded(&json!({ "a": { "b": "x y&=[]" } })), "a%5Bb%5D=x+y%26%3D%5B%5D");
    }

    #[test]
    fn the_same_value_makes_the_same_form_so_that_a_repeated_key_has_the_same_request() {
        let form = json!({ "b": 1, "a": [{ "d": 1, "c": 2 }] });
        assert_eq!(encoded(&form), encoded(&form.clone()));
        assert_eq!(pairs(&Value::Null), []);
    }
}
