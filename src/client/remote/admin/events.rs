use super::{Remote, required};
use crate::Error;
use crate::backend::{EventQuery, MeterQuery, MeterReading, Page, Recorded, sound_event};
use crate::policy::{CustomerId, Event, EventId, RecordedEvent};
use crate::wire::{
    EventForm, EventsBody, ItemsBody, Pairs, ReadingBody, ReadingQuery, RecordBody, RecordedBody,
    RecordedForm, ResultsBody, VoidBody, aggregation, fits, parts,
};

/// How many events are recorded at once.
const MOST_EVENTS: usize = 1_000;

impl Remote {
    pub(super) async fn record_events(&self, events: Vec<Event>) -> Result<Vec<Recorded>, Error> {
        if events.len() > MOST_EVENTS {
            let problem = format_args!("are {}; give at most {MOST_EVENTS}", events.len());
            return Err(Error::invalid("events", problem));
        }
        let events = events.into_iter().enumerate().map(form).collect::<Result<_, _>>()?;
        let answer: ResultsBody<RecordedBody> =
            self.once(&["x", "events", "record"], &RecordBody { events }).await?;
        answer.results.into_iter().map(recorded).collect()
    }

    pub(super) async fn void_event(
        &self,
        customer: CustomerId,
        id: EventId,
    ) -> Result<Recorded, Error> {
        let body = VoidBody { customer_id: customer.to_string(), id: id.to_string() };
        recorded(self.put(&["x", "events", "void"], &body).await?)
    }

    pub(super) async fn list_events(
        &self,
        query: EventQuery,
    ) -> Result<Page<RecordedEvent>, Error> {
        let customer = query.customer.map(required).transpose()?;
        let body = EventsBody {
            customer_id: customer.map(|customer| customer.to_string()),
            event_type: query.event_type.map(Into::into),
            limit: query.page.limit,
            cursor: query.page.cursor,
        };
        let answer: ItemsBody<RecordedForm> = self.read(&["x", "events", "list"], &body).await?;
        let items = answer.items.into_iter().map(RecordedEvent::try_from);
        Ok(Page { items: items.collect::<Result<_, _>>()?, next: answer.next })
    }

    pub(super) async fn read_meter(&self, query: MeterQuery) -> Result<MeterReading, Error> {
        let customer = query.customer.map(required).transpose()?;
        let body = ReadingQuery {
            meter_id: query.meter.into(),
            customer_id: customer.map(|customer| customer.to_string()),
            dimensions: Pairs(query.dimensions),
            from: query.start,
            until: query.end,
        };
        let answer: ReadingBody = self.read(&["x", "meters", "query"], &body).await?;
        Ok(MeterReading {
            value: answer.value,
            aggregation: aggregation(&answer.aggregation)?,
            complete: answer.complete,
        })
    }
}

fn form((at, event): (usize, Event)) -> Result<EventForm, Error> {
    let (customer, id) = sound_event(at, &event)?;
    let unsound = |problem| Error::invalid(&format!("events[{at}].usage"), problem);
    fits(&event.usage).map_err(unsound)?;
    let (values, dimensions) = parts(&event.usage);
    Ok(EventForm {
        id: id.map(|id| id.to_string()),
        customer_id: customer.to_string(),
        event_type: event.event_type.into(),
        values,
        dimensions,
        at: event.at,
    })
}

fn recorded(body: RecordedBody) -> Result<Recorded, Error> {
    let id = EventId::new(&body.id).map_err(|error| Error::invalid("id", error))?;
    Ok(Recorded { id, recorded: body.recorded })
}
