//! Routes for our own client, which carry the whole of the books exactly: a route for each thing
//! that a backend does.

use super::openapi::{Routes, takes};
use super::{holds, settlements, standing};
use crate::wire::{
    BalanceForm, BalanceTerms, ChangeForm, ChangedForm, CustomerForm, CustomerName, DecisionBody,
    DoneBody, EndedBody, EventsBody, HoldCheck, HoldCheckBody, HoldsBody, IdBody, ItemsBody,
    KnownBody, LimitForm, MeterForm, MinimumForm, NothingBody, OpenHoldsBody, OwnedBalance,
    PageForm, ReadingBody, ReadingQuery, RecordBody, RecordedBody, RecordedForm, RemovedBody,
    RenewedBody, ResultsBody, SettleBody, TransactionForm, TransactionsBody, VoidBody,
};

mod balances;
mod customers;
mod definitions;
mod events;

pub(super) fn add(routes: Routes) -> Routes {
    let routes = requests(routes);
    let routes = definitions(routes);
    kept(routes)
}

fn requests(routes: Routes) -> Routes {
    routes
        .post(
            "/v1/x/check",
            "Decides about a request and holds its estimate",
            takes::<HoldCheck>().gives::<HoldCheckBody<'_>>(),
            holds::check,
        )
        .post(
            "/v1/x/settle",
            "Records what requests used, charges it, and drops their holds",
            takes::<SettleBody>().gives::<ResultsBody<EndedBody>>(),
            settlements::settle,
        )
        .post(
            "/v1/x/release",
            "Drops holds and records nothing",
            takes::<HoldsBody>().gives::<ResultsBody<EndedBody>>(),
            holds::release,
        )
        .post(
            "/v1/x/renew",
            "Lets holds live on",
            takes::<HoldsBody>().gives::<ResultsBody<RenewedBody>>(),
            holds::renew,
        )
        .post(
            "/v1/x/preview",
            "Decides as a check does, and keeps nothing",
            takes::<HoldCheck>().gives::<DecisionBody<'_>>(),
            standing::preview,
        )
        .post(
            "/v1/x/usage",
            "Tells where a customer stands on every limit",
            takes::<CustomerName>().gives::<DecisionBody<'_>>(),
            standing::usage,
        )
        .post(
            "/v1/x/open-holds",
            "Tells how many requests are running",
            takes::<NothingBody>().gives::<OpenHoldsBody>(),
            events::open_holds,
        )
}

fn definitions(routes: Routes) -> Routes {
    routes
        .post(
            "/v1/x/meters/list",
            "Lists every meter",
            takes::<NothingBody>().gives::<ItemsBody<MeterForm>>(),
            definitions::meters,
        )
        .post(
            "/v1/x/meters/put",
            "Adds a meter, or replaces the one of its id",
            takes::<MeterForm>().gives::<DoneBody>(),
            definitions::put_meter,
        )
        .post(
            "/v1/x/meters/remove",
            "Removes a meter that no limit reads",
            takes::<IdBody>().gives::<RemovedBody>(),
            definitions::remove_meter,
        )
        .post(
            "/v1/x/meters/query",
            "Reads a meter over any range",
            takes::<ReadingQuery>().gives::<ReadingBody>(),
            events::query,
        )
        .post(
            "/v1/x/limits/list",
            "Lists every limit",
            takes::<NothingBody>().gives::<ItemsBody<LimitForm>>(),
            definitions::limits,
        )
        .post(
            "/v1/x/limits/put",
            "Adds a limit, or replaces the one of its id and keeps its usage",
            takes::<LimitForm>().gives::<DoneBody>(),
            definitions::put_limit,
        )
        .post(
            "/v1/x/limits/remove",
            "Removes a limit",
            takes::<IdBody>().gives::<RemovedBody>(),
            definitions::remove_limit,
        )
        .post(
            "/v1/x/customers/get",
            "Tells what is known of a customer",
            takes::<CustomerName>().gives::<KnownBody>(),
            customers::get,
        )
        .post(
            "/v1/x/customers/list",
            "Lists customers of whom something is known",
            takes::<PageForm>().gives::<ItemsBody<CustomerForm>>(),
            customers::list,
        )
        .post(
            "/v1/x/customers/put",
            "Adds or replaces what is known of a customer",
            takes::<CustomerForm>().gives::<DoneBody>(),
            customers::put,
        )
        .post(
            "/v1/x/customers/remove",
            "Forgets what is known of a customer; usage stays",
            takes::<CustomerName>().gives::<RemovedBody>(),
            customers::remove,
        )
}

fn kept(routes: Routes) -> Routes {
    routes
        .post(
            "/v1/x/events/record",
            "Records up to 1,000 events, all or none",
            takes::<RecordBody>().gives::<ResultsBody<RecordedBody>>(),
            events::record,
        )
        .post(
            "/v1/x/events/void",
            "Takes an event back, once",
            takes::<VoidBody>().gives::<RecordedBody>(),
            events::void,
        )
        .post(
            "/v1/x/events/list",
            "Lists events, the newest first",
            takes::<EventsBody>().gives::<ItemsBody<RecordedForm>>(),
            events::list,
        )
        .post(
            "/v1/x/balances/list",
            "Lists every balance of a customer",
            takes::<CustomerName>().gives::<ItemsBody<BalanceForm>>(),
            balances::list,
        )
        .post(
            "/v1/x/balances/all",
            "Lists the balances of all customers",
            takes::<PageForm>().gives::<ItemsBody<OwnedBalance>>(),
            balances::all,
        )
        .post(
            "/v1/x/balances/minimum",
            "Changes what must remain of a balance",
            takes::<MinimumForm>().gives::<BalanceForm>(),
            balances::set_minimum,
        )
        .post(
            "/v1/x/balances/create",
            "Makes a balance for one customer",
            takes::<BalanceTerms>().gives::<BalanceForm>(),
            balances::create,
        )
        .post(
            "/v1/x/balances/credit",
            "Adds to a balance, once for each reference",
            takes::<ChangeForm>().gives::<ChangedForm>(),
            balances::credit,
        )
        .post(
            "/v1/x/balances/debit",
            "Takes from a balance, if it covers the amount",
            takes::<ChangeForm>().gives::<ChangedForm>(),
            balances::debit,
        )
        .post(
            "/v1/x/balances/transactions",
            "Lists the transactions of a balance, the newest first",
            takes::<TransactionsBody>().gives::<ItemsBody<TransactionForm>>(),
            balances::transactions,
        )
}
