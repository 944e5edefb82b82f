use super::{Remote, required};
use crate::backend::{Backend, Page, PageRequest, TransactionQuery};
use crate::policy::{
    Amount, Balance, Change, Credited, CustomerId, Debited, NewBalance, Transaction,
};
use crate::wire::{
    BalanceForm, BalanceTerms, ChangeForm, ChangedForm, CustomerName, ItemsBody, MinimumForm,
    Number, OwnedBalance, PageForm, TransactionForm, TransactionsBody,
};
use crate::{Error, ErrorKind};

impl Remote {
    pub(super) async fn list_balances(&self, customer: CustomerId) -> Result<Vec<Balance>, Error> {
        let body = CustomerName { customer_id: customer.to_string() };
        let answer: ItemsBody<BalanceForm> = self.read(&["x", "balances", "list"], &body).await?;
        Ok(answer.items.into_iter().map(Balance::from).collect())
    }

    pub(super) async fn list_all_balances(
        &self,
        page: PageRequest,
    ) -> Result<Page<(CustomerId, Balance)>, Error> {
        let answer: ItemsBody<OwnedBalance> =
            self.read(&["x", "balances", "all"], &PageForm::from(page)).await?;
        let owned = |owned: OwnedBalance| {
            let customer = CustomerId::new(&owned.customer_id);
            let customer = customer.map_err(|error| Error::invalid("customer", error))?;
            Ok((customer, owned.balance.into()))
        };
        let items = answer.items.into_iter().map(owned).collect::<Result<_, Error>>()?;
        Ok(Page { items, next: answer.next })
    }

    pub(super) async fn change_minimum(
        &self,
        customer: CustomerId,
        name: String,
        minimum: Amount,
    ) -> Result<Balance, Error> {
        let body =
            MinimumForm { customer_id: customer.to_string(), name, minimum: Number(minimum) };
        let answer: BalanceForm = self.put(&["x", "balances", "minimum"], &body).await?;
        Ok(answer.into())
    }

    pub(super) async fn make_balance(
        &self,
        customer: CustomerId,
        terms: NewBalance,
    ) -> Result<Balance, Error> {
        terms.validate()?;
        let number = |amount: Result<Amount, _>| amount.ok().map(Number);
        let body = BalanceTerms {
            customer_id: customer.to_string(),
            name: terms.name.into(),
            unit: Some(terms.unit.into()),
            initial: number(terms.initial),
            minimum: number(terms.minimum),
        };
        let answer: BalanceForm = self.once(&["x", "balances", "create"], &body).await?;
        Ok(answer.into())
    }

    pub(super) async fn credit_balance(&self, change: Change) -> Result<Credited, Error> {
        let answer = self.change_balance("credit", change).await?;
        let transaction = answer.transaction.map(Transaction::try_from).transpose()?;
        Ok(Credited { applied: answer.applied, transaction, balance: answer.balance.into() })
    }

    pub(super) async fn debit_balance(&self, change: Change) -> Result<Debited, Error> {
        let answer = self.change_balance("debit", change).await?;
        let balance = answer.balance.into();
        match answer.transaction.filter(|_| answer.applied) {
            Some(transaction) => {
                Ok(Debited::Taken { transaction: transaction.try_into()?, balance })
            }
            None if answer.applied => {
                Err(Error::new(ErrorKind::TimedOut, "the API left out the transaction"))
            }
            None => Ok(Debited::Refused { balance }),
        }
    }

    async fn change_balance(&self, how: &str, mut change: Change) -> Result<ChangedForm, Error> {
        let id = change.once.take().unwrap_or_else(|| self.make_id(self.now()));
        self.once_under(id, &["x", "balances", how], &form(change)?).await
    }

    pub(super) async fn list_transactions(
        &self,
        query: TransactionQuery,
    ) -> Result<Page<Transaction>, Error> {
        let body = TransactionsBody {
            customer_id: required(query.customer)?.to_string(),
            name: query.balance.into(),
            limit: query.page.limit,
            cursor: query.page.cursor,
        };
        let answer: ItemsBody<TransactionForm> =
            self.read(&["x", "balances", "transactions"], &body).await?;
        let items = answer.items.into_iter().map(Transaction::try_from);
        Ok(Page { items: items.collect::<Result<_, _>>()?, next: answer.next })
    }
}

fn form(change: Change) -> Result<ChangeForm, Error> {
    Ok(ChangeForm {
        customer_id: required(change.customer)?.to_string(),
        name: change.balance.into(),
        amount: Number(change.amount.map_err(|error| Error::invalid("amount", error))?),
        description: change.description.map(Into::into),
        reference: change.reference.map(Into::into),
    })
}
