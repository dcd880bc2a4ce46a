module.exports = srv => {
  srv.before('CREATE', 'Confirmations', req => {
    if (!(Number(req.data.quantity) > 0)) req.reject(400, 'QUANTITY_MUST_BE_POSITIVE')
  })
  srv.on('release', async req => {
    const { ProductionOrders, Components } = srv.entities
    const { first, count } = req.data
    const now = new Date().toISOString()
    const orders = [], components = []
    for (let n = first; n < first + count; n++) {
      const ID = String(n).padStart(12, '0')
      orders.push({ ID, material: '000000000000004711', quantity: '12.500', counter: n, status: 'released', due: '2026-07-02', start: '08:00:00', modifiedAt: now })
      components.push({ parent_ID: ID, item: '0010', material: '000000000000000815', quantity: '2.000' })
    }
    await INSERT.into(ProductionOrders).entries(orders)
    await INSERT.into(Components).entries(components)
  })
}
