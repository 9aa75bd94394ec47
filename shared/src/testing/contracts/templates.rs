//! Templates: one name each, counted exactly, changed only as they were read.

use futures::future::join;

use super::{at_once, count};
use crate::ids::{AccountId, TemplateId};
use crate::platform::{Chance, Clock};
use crate::rotation::ReplaceKeys;
use crate::seal::Sealed;
use crate::template::{Created, KeepTemplates, MOST_TEMPLATES, ReadTemplates, Template, Updated};
use crate::testing::fresh;

fn account<W: Clock + Chance>(world: &W) -> AccountId {
    AccountId::new(world.now(), fresh::dice(world))
}

fn new<W: Clock + Chance>(world: &W, account: AccountId) -> Template {
    let now = world.now();
    Template {
        id: TemplateId::new(now, fresh::dice(world)),
        account,
        revision: 1,
        name_hash: fresh::word(world),
        sealed: Sealed(fresh::word(world).into_bytes()),
        created: now,
        updated: now,
    }
}

async fn stored<W: KeepTemplates + Clock + Chance>(world: &W, account: AccountId) -> Template {
    let new = new(world, account);
    assert_eq!(world.create_template(&new).await, Ok(Created::Stored));
    new
}

/// The next revision, with another text.
fn next<W: Chance>(world: &W, read: &Template) -> Template {
    Template { revision: read.revision + 1, sealed: Sealed(fresh::word(world).into_bytes()), ..read.clone() }
}

pub async fn a_template_reads_back_in_its_account_only<W>(world: &W)
where
    W: KeepTemplates + ReadTemplates + Clock + Chance,
{
    let (one, two) = (account(world), account(world));
    let template = stored(world, one).await;
    assert_eq!(world.load_template(one, template.id).await, Ok(Some(template.clone())));
    assert_eq!(world.load_template(two, template.id).await, Ok(None));
    assert_eq!(world.list_templates(two, None, 10).await, Ok(Vec::new()));
    // The same name elsewhere is another name.
    let same_name = Template { name_hash: template.name_hash, ..new(world, two) };
    assert_eq!(world.create_template(&same_name).await, Ok(Created::Stored));
}

pub async fn templates_list_newest_first_in_pages<W>(world: &W)
where
    W: KeepTemplates + ReadTemplates + Clock + Chance,
{
    let account = account(world);
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(stored(world, account).await);
    }
    all.sort_by_key(|template| std::cmp::Reverse(template.id));
    let (mut listed, mut before) = (Vec::new(), None);
    loop {
        let page = world.list_templates(account, before, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        listed.extend(page);
    }
    assert_eq!(listed, all);
}

pub async fn of_many_templates_with_one_name_at_once_one_is_stored<W>(world: &W)
where
    W: KeepTemplates + ReadTemplates + Clock + Chance,
{
    let account = account(world);
    let name_hash = fresh::word(world);
    let news: Vec<_> = (0..8).map(|_| Template { name_hash: name_hash.clone(), ..new(world, account) }).collect();
    let created = at_once(8, |n| world.create_template(&news[n])).await;
    assert_eq!((count(&created, &Ok(Created::Stored)), count(&created, &Ok(Created::NameTaken))), (1, 7));
    let winner = created.iter().position(|created| *created == Ok(Created::Stored)).unwrap();
    assert_eq!(world.list_templates(account, None, 10).await, Ok(vec![news[winner].clone()]));
}

pub async fn an_account_has_so_many_templates_and_no_more<W>(world: &W)
where
    W: KeepTemplates + ReadTemplates + Clock + Chance,
{
    let account = account(world);
    let most = usize::try_from(MOST_TEMPLATES).unwrap();
    let first = stored(world, account).await;
    for _ in 2..=most - 4 {
        stored(world, account).await;
    }
    let news: Vec<_> = (0..10).map(|_| new(world, account)).collect();
    let created = at_once(10, |n| world.create_template(&news[n])).await;
    assert_eq!((count(&created, &Ok(Created::Stored)), count(&created, &Ok(Created::TooMany))), (4, 6));
    // One that is removed twice at once makes room for one.
    let removed = join(world.remove_template(&first), world.remove_template(&first)).await;
    assert_eq!(removed, (Ok(true), Ok(true)));
    let news: Vec<_> = (0..4).map(|_| new(world, account)).collect();
    let created = at_once(4, |n| world.create_template(&news[n])).await;
    assert_eq!((count(&created, &Ok(Created::Stored)), count(&created, &Ok(Created::TooMany))), (1, 3));
    let before = TemplateId::from_bits(u128::MAX);
    let mut listed = world.list_templates(account, Some(before), 100).await.unwrap();
    let last = listed.last().unwrap().id;
    listed.extend(world.list_templates(account, Some(last), 101).await.unwrap());
    assert_eq!(listed.len(), most);
}

pub async fn of_many_changes_at_once_one_is_stored<W>(world: &W)
where
    W: KeepTemplates + ReadTemplates + Clock + Chance,
{
    let account = account(world);
    let read = stored(world, account).await;
    let news: Vec<_> = (0..8).map(|_| next(world, &read)).collect();
    let updated = at_once(8, |n| world.update_template(&read, &news[n])).await;
    assert_eq!((count(&updated, &Ok(Updated::Stored)), count(&updated, &Ok(Updated::Changed))), (1, 7));
    let winner = updated.iter().position(|updated| *updated == Ok(Updated::Stored)).unwrap();
    assert_eq!(world.load_template(account, read.id).await, Ok(Some(news[winner].clone())));
    let gone = Template { id: TemplateId::from_bits(1), ..read };
    assert_eq!(world.update_template(&gone, &next(world, &gone)).await, Ok(Updated::Changed), "none is made by it");
    assert_eq!(world.load_template(account, gone.id).await, Ok(None));
}

pub async fn a_new_name_is_taken_and_the_one_before_is_free<W>(world: &W)
where
    W: KeepTemplates + ReadTemplates + Clock + Chance,
{
    let account = account(world);
    let (one, two) = (stored(world, account).await, stored(world, account).await);
    let taken = Template { name_hash: two.name_hash.clone(), ..next(world, &one) };
    assert_eq!(world.update_template(&one, &taken).await, Ok(Updated::NameTaken));
    assert_eq!(world.load_template(account, one.id).await, Ok(Some(one.clone())));
    let renamed = Template { name_hash: fresh::word(world), ..next(world, &one) };
    assert_eq!(world.update_template(&one, &renamed).await, Ok(Updated::Stored));
    let heir = Template { name_hash: one.name_hash.clone(), ..next(world, &two) };
    assert_eq!(world.update_template(&two, &heir).await, Ok(Updated::Stored));
    let again = Template { name_hash: one.name_hash, ..new(world, account) };
    assert_eq!(world.create_template(&again).await, Ok(Created::NameTaken));
    assert_eq!(world.remove_template(&heir).await, Ok(true));
    assert_eq!(world.create_template(&again).await, Ok(Created::Stored), "a removed one gives its name back");
}

pub async fn of_a_change_and_a_removal_at_once_one_takes_place<W>(world: &W)
where
    W: KeepTemplates + ReadTemplates + Clock + Chance,
{
    for _ in 0..8 {
        let account = account(world);
        let read = stored(world, account).await;
        let new = Template { name_hash: fresh::word(world), ..next(world, &read) };
        let outcome = join(world.update_template(&read, &new), world.remove_template(&read)).await;
        let there = world.load_template(account, read.id).await.unwrap();
        match outcome {
            (Ok(Updated::Stored), Ok(false)) => assert_eq!(there, Some(new)),
            (Ok(Updated::Changed), Ok(true)) => assert_eq!(there, None),
            other => panic!("{other:?}"),
        }
    }
}

pub async fn a_template_is_sealed_anew_as_it_was_read_and_keeps_its_revision<W>(world: &W)
where
    W: KeepTemplates + ReadTemplates + ReplaceKeys + Clock + Chance,
{
    let account = account(world);
    let read = stored(world, account).await;
    let seals: Vec<_> = (0..4).map(|_| Sealed(fresh::word(world).into_bytes())).collect();
    let replaced = at_once(4, |n| world.replace_template(&read, &seals[n])).await;
    assert_eq!((count(&replaced, &Ok(true)), count(&replaced, &Ok(false))), (1, 3));
    let winner = replaced.iter().position(|replaced| *replaced == Ok(true)).unwrap();
    let resealed = Template { sealed: seals[winner].clone(), ..read.clone() };
    assert_eq!(world.load_template(account, read.id).await, Ok(Some(resealed.clone())));
    // Whoever read it before may still change it; what was changed is not put back.
    let changed = next(world, &read);
    assert_eq!(world.update_template(&read, &changed).await, Ok(Updated::Stored));
    assert_eq!(world.replace_template(&resealed, &seals[0]).await, Ok(false));
    assert_eq!(world.load_template(account, read.id).await, Ok(Some(changed.clone())));
    assert_eq!(world.remove_template(&changed).await, Ok(true));
    assert_eq!(world.replace_template(&changed, &seals[0]).await, Ok(false), "none comes back");
    assert_eq!(world.load_template(account, read.id).await, Ok(None));
}
