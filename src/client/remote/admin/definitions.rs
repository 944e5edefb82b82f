use super::Remote;
use crate::Error;
use crate::backend::{Customer, Page, PageRequest};
use crate::policy::catalog::cap_of;
use crate::policy::{CustomerId, Limit, Meter};
use crate::wire::{
    CustomerForm, CustomerName, DoneBody, IdBody, ItemsBody, KnownBody, LimitForm, MeterForm,
    NothingBody, PageForm, RemovedBody,
};

impl Remote {
    pub(super) async fn list_meters(&self) -> Result<Vec<Meter>, Error> {
        let answer: ItemsBody<MeterForm> =
            self.read(&["x", "meters", "list"], &NothingBody {}).await?;
        answer.items.into_iter().map(Meter::try_from).collect()
    }

    pub(super) async fn define_meter(&self, meter: Meter) -> Result<(), Error> {
        let _: DoneBody = self.put(&["x", "meters", "put"], &MeterForm::from(&meter)).await?;
        Ok(())
    }

    pub(super) async fn list_limits(&self) -> Result<Vec<Limit>, Error> {
        let answer: ItemsBody<LimitForm> =
            self.read(&["x", "limits", "list"], &NothingBody {}).await?;
        answer.items.into_iter().map(Limit::try_from).collect()
    }

    pub(super) async fn define_limit(&self, limit: Limit) -> Result<(), Error> {
        let form = LimitForm::of(&limit, cap_of(&limit)?);
        let _: DoneBody = self.put(&["x", "limits", "put"], &form).await?;
        Ok(())
    }

    pub(super) async fn remove(
        &self,
        path: &'static [&'static str],
        id: String,
    ) -> Result<bool, Error> {
        let answer: RemovedBody = self.put(path, &IdBody { id }).await?;
        Ok(answer.removed)
    }

    pub(super) async fn get_customer(&self, id: CustomerId) -> Result<Option<Customer>, Error> {
        let body = CustomerName { customer_id: id.to_string() };
        let answer: KnownBody = self.read(&["x", "customers", "get"], &body).await?;
        Ok(answer.customer.map(Customer::from))
    }

    pub(super) async fn list_customers(&self, page: PageRequest) -> Result<Page<Customer>, Error> {
        let answer: ItemsBody<CustomerForm> =
            self.read(&["x", "customers", "list"], &PageForm::from(page)).await?;
        Ok(Page {
            items: answer.items.into_iter().map(Customer::from).collect(),
            next: answer.next,
        })
    }

    pub(super) async fn define_customer(&self, customer: Customer) -> Result<(), Error> {
        let id = customer.id.clone().map_err(|error| Error::invalid("id", error))?;
        let form = CustomerForm::of(&id, &customer);
        let _: DoneBody = self.put(&["x", "customers", "put"], &form).await?;
        Ok(())
    }

    pub(super) async fn forget_customer(&self, id: CustomerId) -> Result<bool, Error> {
        let body = CustomerName { customer_id: id.to_string() };
        let answer: RemovedBody = self.put(&["x", "customers", "remove"], &body).await?;
        Ok(answer.removed)
    }
}
