// An ERP as SAP's own framework serves it: production orders to be read, confirmations to be posted.
@path: '/odata/v4/plant'
service Plant {
  entity ProductionOrders {
    key ID : String(12);
    material : String(18);
    quantity : Decimal(15, 3);
    counter : Int64;
    status : String(20);
    due : Date;
    start : Time;
    @odata.etag modifiedAt : Timestamp;
    components : Composition of many Components on components.parent = $self;
  }
  entity Components {
    key parent : Association to ProductionOrders;
    key item : String(4);
    material : String(18);
    quantity : Decimal(15, 3);
  }
  entity Confirmations {
    key ID : UUID;
    externalId : String(80);
    order : String(12);
    serial : String(40);
    quantity : Decimal(15, 3);
  }
  // Releases so many orders, numbered from `first` on, all of this moment.
  action release(first : Integer, count : Integer);
}
